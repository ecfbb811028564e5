//! `e^x` in f32, the same bits on every machine, written so that a loop over it becomes vector instructions.
//!
//! `x = n·ln 2 + r` with `|r| <= ln 2 / 2`; a polynomial of degree 6 gives `e^r`, and `2^n` is made from bits in two
//! factors, so that results below the smallest normal number are rounded once. Only `+`, `−` and `·` of IEEE are used.
//! The error is below 1 unit in the last place; `-inf` gives 0, `+inf` and all above 88.73 give `+inf`, NaN gives NaN.

/// `e^x`.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    /// Added and taken away again, rounds to an integer, which then stands in the low bits.
    const ROUND: f32 = 12_582_912.0;
    // Beyond these the result is 0 or infinite anyway. Comparisons, unlike `max`, keep NaN.
    let x = if x < -104.0 { -104.0 } else { x };
    let x = if x > 89.0 { 89.0 } else { x };
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    // ln 2 in two parts; the first has so few bits that its product with n is exact.
    let r = (x - n * 0.693_359_4) - n * -2.121_944_4e-4;
    let p = 1.987_569_2e-4;
    let p = p * r + 1.398_2e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 1.666_666_5e-1;
    let p = p * r + 0.5;
    let p = (p * (r * r) + r) + 1.0;
    let n = (shifted.to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32);
    let half = n >> 1;
    p * power_of_two(half) * power_of_two(n - half)
}

/// `2^n` for `n` in -126..=127.
#[inline(always)]
fn power_of_two(n: i32) -> f32 {
    f32::from_bits((n.wrapping_add(127) as u32) << 23)
}

/// `1 / (1 + e^-x)`.
#[inline(always)]
pub(crate) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

#[cfg(test)]
mod tests {
    use super::*;
    use diffulex_compiler::math;

    /// Distance from the exact result, in units of the last place of the exact result.
    fn error(x: f32) -> f64 {
        let exact = math::exp(f64::from(x));
        let magnitude = exact.max(f64::from(f32::MIN_POSITIVE));
        let unit = f64::from(f32::from_bits((magnitude as f32).to_bits() & 0xff80_0000)) * 2f64.powi(-23);
        (f64::from(exp(x)) - exact).abs() / unit
    }

    #[test]
    fn errs_by_less_than_one_unit_in_the_last_place() {
        let mut worst = 0f64;
        for i in 0..4_000_000 {
            let x = -104.0 + i as f32 * (192.7 / 4_000_000.0);
            worst = worst.max(error(x));
        }
        assert!(worst < 1.0, "{worst}");
    }

    #[test]
    fn the_edges() {
        assert_eq!([exp(0.0), exp(-0.0), exp(f32::NEG_INFINITY), exp(-1e30), exp(-104.5)], [1.0, 1.0, 0.0, 0.0, 0.0]);
        assert_eq!([exp(88.73), exp(1e30), exp(f32::INFINITY)], [f32::INFINITY; 3]);
        assert!(exp(f32::NAN).is_nan() && exp(88.72).is_finite() && exp(-103.0) > 0.0);
        assert_eq!([sigmoid(0.0), sigmoid(1e3), sigmoid(-1e3)], [0.5, 1.0, 0.0]);
    }
}
