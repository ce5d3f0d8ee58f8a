use super::*;
pub fn write(_out: &mut Output, _run: &RunArgs, _m: &Methods) -> Result<()> {
    Ok(())
}
