//! Functions that must give the same bits on every machine. The platform's own `exp`, `sin`, `powf` … differ between
//! C libraries and are banned by `clippy.toml`; these are plain Rust from `libm`.

/// Cosine.
pub fn cos(x: f64) -> f64 {
    libm::cos(x)
}

/// Sine.
pub fn sin(x: f64) -> f64 {
    libm::sin(x)
}

/// `e^x`.
pub fn exp(x: f64) -> f64 {
    libm::exp(x)
}

/// The angle by which `position` turns dimension `j` of a head of `dim` dimensions: `position · theta^(-2j/dim)`.
///
/// The frequency and the angle are rounded to f32, as the families' own code does; at position 4000 that is a
/// difference of 1e-4 in the angle from the exact product.
pub fn rope_angle(position: f64, theta: f64, j: usize, dim: usize) -> f64 {
    let frequency = 1.0 / libm::pow(theta, (2 * j) as f64 / dim as f64);
    f64::from(position as f32 * frequency as f32)
}
