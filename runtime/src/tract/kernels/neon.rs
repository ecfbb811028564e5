//! Sixteen lanes on 64-bit ARM: four 128-bit registers. Every such processor has them.

use std::arch::aarch64::*;
use std::arch::asm;

use super::simd::{LANES, Simd};

/// Four 128-bit registers.
#[derive(Clone, Copy)]
pub(super) struct Neon;

impl Simd for Neon {
    type Vector = [float32x4_t; 4];
    const ROWS: usize = 2;
    const TOKENS: usize = 3;

    #[inline(always)]
    fn splat(self, x: f32) -> Self::Vector {
        // SAFETY: every 64-bit ARM processor has the instructions.
        unsafe { [vdupq_n_f32(x); 4] }
    }

    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> Self::Vector {
        // SAFETY: as above; the reference covers the 64 bytes.
        unsafe { quarters(x.as_ptr()) }
    }

    #[inline(always)]
    fn load_f32(self, x: &[u8; 4 * LANES]) -> Self::Vector {
        // SAFETY: as above; the loads need no alignment.
        unsafe { quarters(x.as_ptr().cast()) }
    }

    #[inline(always)]
    fn load_f16(self, x: &[u8; 2 * LANES]) -> Self::Vector {
        let at: *const u16 = x.as_ptr().cast();
        let mut wide = self.splat(0.0);
        for (i, wide) in wide.iter_mut().enumerate() {
            // SAFETY: as above, 32 bytes. The conversion belongs to the base instructions; its intrinsic is not stable.
            unsafe {
                let narrow = vld1_u16(at.add(4 * i));
                asm!("fcvtl {0:v}.4s, {1:v}.4h", out(vreg) *wide, in(vreg) narrow, options(pure, nomem, nostack));
            }
        }
        wide
    }

    #[inline(always)]
    fn load_bf16(self, x: &[u8; 2 * LANES]) -> Self::Vector {
        let at: *const u16 = x.as_ptr().cast();
        let mut wide = self.splat(0.0);
        for (i, wide) in wide.iter_mut().enumerate() {
            // SAFETY: as above, 32 bytes.
            unsafe { *wide = vreinterpretq_f32_u32(vshlq_n_u32::<16>(vmovl_u16(vld1_u16(at.add(4 * i))))) };
        }
        wide
    }

    #[inline(always)]
    fn store(self, x: Self::Vector, out: &mut [f32; LANES]) {
        for (part, x) in out.as_chunks_mut::<4>().0.iter_mut().zip(x) {
            // SAFETY: as above; the reference covers the 16 bytes.
            unsafe { vst1q_f32(part.as_mut_ptr(), x) };
        }
    }

    #[inline(always)]
    fn prefetch(self, at: *const u8) {
        // SAFETY: a hint; no address is wrong.
        unsafe { asm!("prfm pldl1keep, [{0}]", in(reg) at, options(readonly, nostack, preserves_flags)) };
    }

    #[inline(always)]
    fn fma(self, a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector {
        let mut sum = c;
        for (i, sum) in sum.iter_mut().enumerate() {
            // SAFETY: as above.
            unsafe { *sum = vfmaq_f32(*sum, a[i], b[i]) };
        }
        sum
    }

    #[inline(always)]
    fn sum(self, x: Self::Vector) -> f32 {
        // SAFETY: as above.
        unsafe {
            let four = vaddq_f32(vaddq_f32(x[0], x[2]), vaddq_f32(x[1], x[3]));
            let two = vpaddq_f32(four, four);
            vgetq_lane_f32::<0>(vpaddq_f32(two, two))
        }
    }
}

/// # Safety
/// Sixteen numbers lie at `at`.
#[inline(always)]
unsafe fn quarters(at: *const f32) -> [float32x4_t; 4] {
    // SAFETY: the caller's.
    unsafe { [vld1q_f32(at), vld1q_f32(at.add(4)), vld1q_f32(at.add(8)), vld1q_f32(at.add(12))] }
}
