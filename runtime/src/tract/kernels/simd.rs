//! Sixteen `f32` lanes, the unit of every kernel, on whatever the processor has.
//!
//! A kernel is a struct with its arguments and one generic function ([`Kernel`]). [`run`] calls it with the best set of
//! instructions of this processor; a value of a [`Simd`] type is the proof that its instructions exist, which is why
//! the intrinsics below may be called. Nothing else in the kernels is unsafe.

#[cfg(target_arch = "x86_64")]
use super::x86;

/// Numbers in one vector, whatever the processor's own registers hold.
pub(crate) const LANES: usize = 16;

/// Operations on sixteen lanes.
pub(crate) trait Simd: Copy {
    /// Sixteen `f32`.
    type Vector: Copy;
    /// Rows of weights that one tile of a product covers; 1, 2 or 4.
    const ROWS: usize;
    /// Most tokens that one tile covers; at most 6.
    const TOKENS: usize;

    /// The same number in all lanes.
    fn splat(self, x: f32) -> Self::Vector;
    /// Sixteen numbers.
    fn load(self, x: &[f32; LANES]) -> Self::Vector;
    /// Sixteen little-endian `f32`.
    fn load_f32(self, x: &[u8; 4 * LANES]) -> Self::Vector;
    /// Sixteen little-endian `f16`, widened.
    fn load_f16(self, x: &[u8; 2 * LANES]) -> Self::Vector;
    /// Sixteen little-endian `bf16`, widened.
    fn load_bf16(self, x: &[u8; 2 * LANES]) -> Self::Vector;
    /// The sixteen numbers.
    fn store(self, x: Self::Vector, out: &mut [f32; LANES]);
    /// Asks for the bytes at that address, which need not be ours, to be brought near.
    fn prefetch(self, at: *const u8);
    /// `a · b + c`, rounded once.
    fn fma(self, a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector;
    /// All lanes added: lane `i` to lane `i + 8`, then `i + 4`, then neighbours, then the two that are left.
    fn sum(self, x: Self::Vector) -> f32;
    /// Four sums at once.
    #[inline(always)]
    fn sum4(self, x: [Self::Vector; 4]) -> [f32; 4] {
        x.map(|x| self.sum(x))
    }
}

/// A piece of work for one core.
pub(crate) trait Kernel {
    /// What it gives.
    type Output;
    /// Does it. Implementations are `#[inline(always)]`, so that they are compiled with the instructions of `S`.
    fn run<S: Simd>(self, simd: S) -> Self::Output;
}

/// Runs `kernel` with the best instructions that this processor has.
pub(crate) fn run<K: Kernel>(kernel: K) -> K::Output {
    #[cfg(target_arch = "x86_64")]
    {
        if let Some(simd) = x86::Avx512::new() {
            // SAFETY: the token says that the processor has the instructions.
            return unsafe { x86::with_avx512(kernel, simd) };
        }
        if let Some(simd) = x86::Avx2::new() {
            // SAFETY: as above.
            return unsafe { x86::with_avx2(kernel, simd) };
        }
    }
    #[cfg(target_arch = "aarch64")]
    return kernel.run(super::neon::Neon);
    #[cfg(not(target_arch = "aarch64"))]
    kernel.run(Plain)
}

/// Plain Rust: every processor, and the meaning of the others. Without a fused multiply-add instruction it is slow but
/// still gives the same bits.
#[derive(Clone, Copy)]
#[cfg_attr(target_arch = "aarch64", allow(dead_code))]
pub(crate) struct Plain;

impl Simd for Plain {
    type Vector = [f32; LANES];
    const ROWS: usize = 2;
    const TOKENS: usize = 2;

    #[inline(always)]
    fn splat(self, x: f32) -> Self::Vector {
        [x; LANES]
    }

    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> Self::Vector {
        *x
    }

    #[inline(always)]
    fn load_f32(self, x: &[u8; 4 * LANES]) -> Self::Vector {
        let (numbers, _) = x.as_chunks::<4>();
        std::array::from_fn(|i| f32::from_le_bytes(numbers[i]))
    }

    #[inline(always)]
    fn load_f16(self, x: &[u8; 2 * LANES]) -> Self::Vector {
        let (numbers, _) = x.as_chunks::<2>();
        std::array::from_fn(|i| half::f16::from_le_bytes(numbers[i]).to_f32())
    }

    #[inline(always)]
    fn load_bf16(self, x: &[u8; 2 * LANES]) -> Self::Vector {
        let (numbers, _) = x.as_chunks::<2>();
        std::array::from_fn(|i| f32::from_bits(u32::from(u16::from_le_bytes(numbers[i])) << 16))
    }

    #[inline(always)]
    fn store(self, x: Self::Vector, out: &mut [f32; LANES]) {
        *out = x;
    }

    #[inline(always)]
    fn prefetch(self, _: *const u8) {}

    #[inline(always)]
    fn fma(self, a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector {
        std::array::from_fn(|i| a[i].mul_add(b[i], c[i]))
    }

    #[inline(always)]
    fn sum(self, x: Self::Vector) -> f32 {
        let eight: [f32; 8] = std::array::from_fn(|i| x[i] + x[i + 8]);
        let four: [f32; 4] = std::array::from_fn(|i| eight[i] + eight[i + 4]);
        (four[0] + four[1]) + (four[2] + four[3])
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Runs `kernel` with every set of instructions that this processor has, plain Rust last.
    pub(crate) fn run_all<K: Kernel + Clone>(kernel: &K) -> Vec<K::Output> {
        let mut all = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            if let Some(simd) = x86::Avx512::new() {
                // SAFETY: the token says that the processor has the instructions.
                all.push(unsafe { x86::with_avx512(kernel.clone(), simd) });
            }
            if let Some(simd) = x86::Avx2::new() {
                // SAFETY: as above.
                all.push(unsafe { x86::with_avx2(kernel.clone(), simd) });
            }
        }
        #[cfg(target_arch = "aarch64")]
        all.push(kernel.clone().run(super::super::neon::Neon));
        all.push(kernel.clone().run(Plain));
        all
    }

    /// Numbers between −1 and 1 that look random.
    pub(crate) fn numbers(count: usize, seed: u64) -> Vec<f32> {
        let mix = |i: usize| (i as u64 + 1).wrapping_mul(seed | 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
        (0..count).map(|i| (mix(i).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 40) as f32 / (1 << 23) as f32 - 1.0).collect()
    }

    /// Panics unless `got` is within `limit` of `expected`, relative to the largest of both.
    pub(crate) fn near(got: &[f32], expected: &[f64], limit: f64) {
        assert_eq!(got.len(), expected.len());
        let largest = expected.iter().fold(1e-3f64, |m, x| m.max(x.abs()));
        for (i, (a, b)) in got.iter().zip(expected).enumerate() {
            let off = (f64::from(*a) - b).abs() / largest;
            assert!(off <= limit, "number {i}: {a} is not {b}, off by {off}");
        }
    }

    /// All ways to load, and the order of a sum.
    #[derive(Clone)]
    struct Lanes([f32; LANES], [u8; 4 * LANES]);

    impl Kernel for Lanes {
        type Output = ([[f32; LANES]; 5], f32);

        #[inline(always)]
        fn run<S: Simd>(self, simd: S) -> Self::Output {
            let half: &[u8; 2 * LANES] = self.1.first_chunk().unwrap();
            let x = simd.load(&self.0);
            let all =
                [simd.load_f32(&self.1), simd.load_f16(half), simd.load_bf16(half), simd.fma(x, x, simd.splat(0.3)), x];
            let store = |x| {
                let mut out = [0.0; LANES];
                simd.store(x, &mut out);
                out
            };
            (all.map(store), simd.sum(x))
        }
    }

    #[test]
    fn every_set_of_instructions_gives_the_same_bits() {
        for seed in 0..200 {
            let x: [f32; LANES] = numbers(LANES, seed).try_into().unwrap();
            // Exponents stay small, so that there are no NaNs, which may differ in their payload.
            let bytes =
                std::array::from_fn(|i| if i % 2 == 1 { (seed as u8).wrapping_mul(31) & 0xbb } else { (i * 7) as u8 });
            let all = run_all(&Lanes(x, bytes));
            all.iter().for_each(|one| assert_eq!(*one, all[0]));
            let plain = Plain.load_f16(bytes.first_chunk().unwrap());
            let expected: [f32; LANES] =
                std::array::from_fn(|i| half::f16::from_le_bytes([bytes[2 * i], bytes[2 * i + 1]]).to_f32());
            assert_eq!(plain, expected);
        }
    }
}
