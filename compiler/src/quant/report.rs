//! What rounding costs: the error of a weight, number by number, summed up.

use serde::{Deserialize, Serialize};

use crate::ir::{Encoding, Weight};

/// Errors of some numbers, summed. Sums are taken in f64 in the order of the numbers: the same on every machine.
///
/// ```
/// let mut rounding = diffulex_compiler::quant::Rounding::default();
/// rounding.add(&[3.0, -4.0], &[3.0, -3.5]);
/// // 25 of signal and 0.25 of noise: 10·lg(100) = 20 dB.
/// assert_eq!((rounding.sqnr(), rounding.worst), (Some(20.0), 0.5));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rounding {
    /// `Σ x²`
    pub signal: f64,
    /// `Σ (x - x')²`, where `x'` is what `x` reads back as.
    pub noise: f64,
    /// The largest `|x - x'|`.
    pub worst: f32,
    /// The largest `|x|`.
    pub largest: f32,
}

impl Rounding {
    /// Adds numbers and what they read back as.
    pub fn add(&mut self, exact: &[f32], kept: &[f32]) {
        // Eight sums, one for every eighth number, let the processor add side by side.
        let (mut signal, mut noise) = ([0.0; 8], [0.0; 8]);
        let (mut worst, mut largest) = ([0.0f32; 8], [0.0f32; 8]);
        for (exact, kept) in exact.chunks(8).zip(kept.chunks(8)) {
            for (i, (x, y)) in exact.iter().zip(kept).enumerate() {
                let difference = x - y;
                signal[i] += f64::from(*x) * f64::from(*x);
                noise[i] += f64::from(difference) * f64::from(difference);
                worst[i] = worst[i].max(difference.abs());
                largest[i] = largest[i].max(x.abs());
            }
        }
        let sums = Rounding {
            signal: signal.iter().sum(),
            noise: noise.iter().sum(),
            worst: worst.into_iter().fold(0.0, f32::max),
            largest: largest.into_iter().fold(0.0, f32::max),
        };
        self.join(&sums);
    }

    /// Adds the sums of the numbers that follow.
    pub fn join(&mut self, other: &Rounding) {
        self.signal += other.signal;
        self.noise += other.noise;
        self.worst = self.worst.max(other.worst);
        self.largest = self.largest.max(other.largest);
    }

    /// The ratio of signal to quantization noise in decibels, `10·lg(Σx² / Σ(x - x')²)`; nothing where nothing is lost.
    pub fn sqnr(&self) -> Option<f64> {
        (self.noise > 0.0).then(|| 10.0 * libm::log10(self.signal / self.noise))
    }
}

/// What one weight became.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cost {
    /// Its name.
    pub name: String,
    /// How it is stored.
    pub encoding: Encoding,
    /// Its shape.
    pub shape: Vec<u32>,
    /// Bytes it takes, scales included.
    pub bytes: u64,
    /// [`Rounding::sqnr`].
    pub sqnr: Option<f64>,
    /// [`Rounding::worst`].
    pub worst: f32,
    /// [`Rounding::largest`].
    pub largest: f32,
}

impl Cost {
    /// That of a weight which takes `bytes`.
    pub fn new(weight: &Weight, bytes: u64, rounding: &Rounding) -> Cost {
        Cost {
            name: weight.name.clone(),
            encoding: weight.ty.encoding,
            shape: weight.ty.shape.clone(),
            bytes,
            sqnr: rounding.sqnr(),
            worst: rounding.worst,
            largest: rounding.largest,
        }
    }

    /// How many numbers the weight has.
    pub fn numbers(&self) -> u64 {
        self.shape.iter().map(|&n| u64::from(n)).product()
    }
}
