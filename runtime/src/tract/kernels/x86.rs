//! Sixteen lanes on x86-64: one 512-bit register, or two of 256 bits.
//!
//! A token ([`Avx512`], [`Avx2`]) exists only where its instructions do. No closures around intrinsics here: a closure is
//! compiled without the instructions of the function around it, and each intrinsic becomes a call.

use std::arch::x86_64::*;

use super::simd::{Kernel, LANES, Simd};

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
    fn prefetch(self, at: *const u8) {
        // SAFETY: a hint; no address is wrong.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
    }

    #[inline(always)]
    fn fma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: the token says that the processor has the instruction.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    fn sum(self, x: __m512) -> f32 {
        // SAFETY: as above.
        unsafe { sum8(_mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps::<1>(x))) }
    }

    #[inline(always)]
    fn sum4(self, x: [__m512; 4]) -> [f32; 4] {
        let mut sums = [0.0; 4];
        // The steps of `sum`, on two and then four vectors at once; numbers in quarters of a register.
        // SAFETY: as above; the array takes the four sums.
        unsafe {
            // Lanes i and i + 8: quarters 0, 1 of both and quarters 2, 3 of both.
            let low = [_mm512_shuffle_f32x4::<0x44>(x[0], x[1]), _mm512_shuffle_f32x4::<0xee>(x[0], x[1])];
            let high = [_mm512_shuffle_f32x4::<0x44>(x[2], x[3]), _mm512_shuffle_f32x4::<0xee>(x[2], x[3])];
            let (low, high) = (_mm512_add_ps(low[0], low[1]), _mm512_add_ps(high[0], high[1]));
            // Lanes i and i + 4: the even quarters and the odd ones.
            let (even, odd) = (_mm512_shuffle_f32x4::<0x88>(low, high), _mm512_shuffle_f32x4::<0xdd>(low, high));
            let four = _mm512_add_ps(even, odd);
            // Neighbours, then the two that are left; each quarter holds one sum four times.
            let two = _mm512_add_ps(four, _mm512_permute_ps::<0xb1>(four));
            let one = _mm512_add_ps(two, _mm512_permute_ps::<0x4e>(two));
            let packed = _mm512_maskz_compress_ps(0x1111, one);
            _mm_storeu_ps(sums.as_mut_ptr(), _mm512_castps512_ps128(packed));
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
        unsafe {
            let low = _mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(_mm_loadu_si128(at)));
            let high = _mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(_mm_loadu_si128(at.add(1))));
            [_mm256_castsi256_ps(low), _mm256_castsi256_ps(high)]
        }
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
    fn prefetch(self, at: *const u8) {
        // SAFETY: a hint; no address is wrong.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
    }

    #[inline(always)]
    fn fma(self, a: [__m256; 2], b: [__m256; 2], c: [__m256; 2]) -> [__m256; 2] {
        // SAFETY: the token says that the processor has the instruction.
        unsafe { [_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])] }
    }

    #[inline(always)]
    fn sum(self, x: [__m256; 2]) -> f32 {
        // SAFETY: as above.
        unsafe { sum8(_mm256_add_ps(x[0], x[1])) }
    }
}

/// The last three steps of a sum.
#[inline]
#[target_feature(enable = "avx2")]
fn sum8(x: __m256) -> f32 {
    let four = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
    let two = _mm_hadd_ps(four, four);
    _mm_cvtss_f32(_mm_hadd_ps(two, two))
}
