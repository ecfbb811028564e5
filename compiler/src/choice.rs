//! Enums whose variants are written as words: in recipes, in `generation.json`, in the printed IR.

/// Declares such an enum, with its words.
macro_rules! choices {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
        pub enum $name {
            $($(#[$variant_doc])* #[serde(rename = $word)] $variant,)+
        }

        impl $name {
            /// Every variant, in order.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// Every word of this choice, in the order of the variants.
            pub const NAMES: &[&str] = &[$($word),+];

            /// The variant a word names.
            pub fn from_name(name: &str) -> Option<Self> {
                match name {
                    $($word => Some(Self::$variant),)+
                    _ => None,
                }
            }

            /// Its word.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)+
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.name())
            }
        }
    };
}

pub(crate) use choices;

#[cfg(test)]
mod tests {
    use crate::generation::Strategy;
    use crate::ir::Encoding;

    #[test]
    fn words_and_variants_agree() {
        for &name in Strategy::NAMES {
            assert_eq!(Strategy::from_name(name).map(Strategy::name), Some(name));
            let json = serde_json::to_string(&Strategy::from_name(name)).unwrap();
            assert_eq!(json, format!("{name:?}"));
        }
        assert_eq!(Encoding::from_name("bf16"), Some(Encoding::BF16));
        assert_eq!(Encoding::from_name("BF16"), None);
    }
}
