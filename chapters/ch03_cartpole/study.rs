use super::*;
pub fn run(_out: &mut Output, _run: &RunArgs, _effort: Effort) -> Result<()> {
    Ok(())
}
