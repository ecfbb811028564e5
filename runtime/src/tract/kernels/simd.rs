//! Sixteen `f32` lanes, the unit of every kernel, on whatever the processor has.
//!
//! A kernel is a struct with its arguments and one generic function ([`Kernel`]). [`run`] calls it with the best set of
//! instructions of this processor; a value of a [`Simd`] type is the proof that its instructions exist, which is why
//! the intrinsics below may be called. Nothing else in the kernels is unsafe.

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
    kernel.run(Plain)
}

/// Plain Rust: every processor, and the meaning of the others. Without a fused multiply-add instruction it is slow but
/// still gives the same bits.
#[derive(Clone, Copy)]
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

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{Kernel, LANES, Simd};

    /// One 512-bit register.
    #[derive(Clone, Copy)]
    pub(super) struct Avx512(());

    /// Two 256-bit registers.
    #[derive(Clone, Copy)]
    pub(super) struct Avx2(());

    impl Avx512 {
        /// The token, if the processor has the instructions.
        pub(super) fn new() -> Option<Avx512> {
            let all = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && Avx2::new().is_some();
            all.then_some(Avx512(()))
        }
    }

    impl Avx2 {
        /// The token, if the processor has the instructions.
        pub(super) fn new() -> Option<Avx2> {
            let all =
                is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c");
            all.then_some(Avx2(()))
        }
    }

    /// # Safety
    /// The processor has AVX-512 F, VL, BW and DQ, AVX2, FMA and F16C. (With F alone the compiler leaves half of the
    /// registers unused.)
    #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma,f16c")]
    pub(super) unsafe fn with_avx512<K: Kernel>(kernel: K, simd: Avx512) -> K::Output {
        kernel.run(simd)
    }

    /// # Safety
    /// The processor has AVX2, FMA and F16C.
    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) unsafe fn with_avx2<K: Kernel>(kernel: K, simd: Avx2) -> K::Output {
        kernel.run(simd)
    }

    impl Simd for Avx512 {
        type Vector = __m512;
        const ROWS: usize = 4;
        const TOKENS: usize = 6;

        #[inline(always)]
        fn splat(self, x: f32) -> __m512 {
            // SAFETY: the token says that the processor has the instruction.
            unsafe { _mm512_set1_ps(x) }
        }

        #[inline(always)]
        fn load(self, x: &[f32; LANES]) -> __m512 {
            // SAFETY: as above; the reference covers the 64 bytes, the load needs no alignment.
            unsafe { _mm512_loadu_ps(x.as_ptr()) }
        }

        #[inline(always)]
        fn load_f32(self, x: &[u8; 4 * LANES]) -> __m512 {
            // SAFETY: as above.
            unsafe { _mm512_loadu_ps(x.as_ptr().cast()) }
        }

        #[inline(always)]
        fn load_f16(self, x: &[u8; 2 * LANES]) -> __m512 {
            // SAFETY: as above, 32 bytes.
            unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(x.as_ptr().cast())) }
        }

        #[inline(always)]
        fn load_bf16(self, x: &[u8; 2 * LANES]) -> __m512 {
            // SAFETY: as above, 32 bytes.
            unsafe {
                let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(x.as_ptr().cast()));
                _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
            }
        }

        #[inline(always)]
        fn store(self, x: __m512, out: &mut [f32; LANES]) {
            // SAFETY: as above; the reference covers the 64 bytes.
            unsafe { _mm512_storeu_ps(out.as_mut_ptr(), x) }
        }

        #[inline(always)]
        fn fma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
            // SAFETY: the token says that the processor has the instruction.
            unsafe { _mm512_fmadd_ps(a, b, c) }
        }

        #[inline(always)]
        fn sum(self, x: __m512) -> f32 {
            // SAFETY: as above.
            unsafe {
                let two = _mm_hadd_ps(four(x), four(x));
                _mm_cvtss_f32(_mm_hadd_ps(two, two))
            }
        }

        #[inline(always)]
        fn sum4(self, x: [__m512; 4]) -> [f32; 4] {
            let mut sums = [0.0; 4];
            // SAFETY: as above; the array takes the four sums.
            unsafe {
                let low = _mm_hadd_ps(four(x[0]), four(x[1]));
                let high = _mm_hadd_ps(four(x[2]), four(x[3]));
                _mm_storeu_ps(sums.as_mut_ptr(), _mm_hadd_ps(low, high));
            }
            sums
        }
    }

    impl Simd for Avx2 {
        type Vector = [__m256; 2];
        const ROWS: usize = 2;
        const TOKENS: usize = 3;

        #[inline(always)]
        fn splat(self, x: f32) -> [__m256; 2] {
            // SAFETY: the token says that the processor has the instruction.
            unsafe { [_mm256_set1_ps(x); 2] }
        }

        #[inline(always)]
        fn load(self, x: &[f32; LANES]) -> [__m256; 2] {
            // SAFETY: as above; the reference covers the 64 bytes, the loads need no alignment.
            unsafe { [_mm256_loadu_ps(x.as_ptr()), _mm256_loadu_ps(x.as_ptr().add(8))] }
        }

        #[inline(always)]
        fn load_f32(self, x: &[u8; 4 * LANES]) -> [__m256; 2] {
            let at: *const f32 = x.as_ptr().cast();
            // SAFETY: as above.
            unsafe { [_mm256_loadu_ps(at), _mm256_loadu_ps(at.add(8))] }
        }

        #[inline(always)]
        fn load_f16(self, x: &[u8; 2 * LANES]) -> [__m256; 2] {
            let at: *const __m128i = x.as_ptr().cast();
            // SAFETY: as above, 32 bytes.
            unsafe { [_mm256_cvtph_ps(_mm_loadu_si128(at)), _mm256_cvtph_ps(_mm_loadu_si128(at.add(1)))] }
        }

        #[inline(always)]
        fn load_bf16(self, x: &[u8; 2 * LANES]) -> [__m256; 2] {
            let at: *const __m128i = x.as_ptr().cast();
            // SAFETY: as above, 32 bytes.
            let widen = |at| unsafe {
                let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(at));
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide))
            };
            // SAFETY: the second half lies inside the 32 bytes.
            [widen(at), widen(unsafe { at.add(1) })]
        }

        #[inline(always)]
        fn store(self, x: [__m256; 2], out: &mut [f32; LANES]) {
            // SAFETY: as above; the reference covers the 64 bytes.
            unsafe {
                _mm256_storeu_ps(out.as_mut_ptr(), x[0]);
                _mm256_storeu_ps(out.as_mut_ptr().add(8), x[1]);
            }
        }

        #[inline(always)]
        fn fma(self, a: [__m256; 2], b: [__m256; 2], c: [__m256; 2]) -> [__m256; 2] {
            // SAFETY: the token says that the processor has the instruction.
            unsafe { [_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])] }
        }

        #[inline(always)]
        fn sum(self, x: [__m256; 2]) -> f32 {
            // SAFETY: as above.
            unsafe {
                let two = four256(_mm256_add_ps(x[0], x[1]));
                let two = _mm_hadd_ps(two, two);
                _mm_cvtss_f32(_mm_hadd_ps(two, two))
            }
        }
    }

    /// Sixteen lanes added down to four.
    #[inline]
    #[target_feature(enable = "avx512f,avx512dq,avx2")]
    fn four(x: __m512) -> __m128 {
        four256(_mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps::<1>(x)))
    }

    /// Eight lanes added down to four.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn four256(x: __m256) -> __m128 {
        _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x))
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
