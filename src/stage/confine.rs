//! What the program may not do.

#[derive(Debug, Clone)]
pub enum Groups {
    Set(Vec<u32>),
    Keep,
}
#[derive(Debug)]
pub struct Identity {
    pub uid: u32,
    pub gid: u32,
    pub groups: Groups,
}
pub fn apply(_c: &crate::spec::Confinement, _i: &Identity) -> anyhow::Result<()> {
    Ok(())
}
