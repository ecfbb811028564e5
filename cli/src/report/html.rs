//! Placeholder
pub fn page(_: &[super::Subject]) -> String {
    String::new()
}
