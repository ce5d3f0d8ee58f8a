//! A run that may stop at any moment: Ctrl-C, a full disk, a power cut.

use super::*;
use anyhow::{Context, ensure};
use grpo::checkpoint;
use std::sync::atomic::{AtomicBool, Ordering};

/// Steps between two saves.
const SAVE_EVERY: usize = 20;
/// The exit code of a program that was interrupted.
const INTERRUPTED: i32 = 130;

/// Set by Ctrl-C, read between two steps.
static STOP: AtomicBool = AtomicBool::new(false);

/// What a checkpoint holds beside the numbers of the model.
#[derive(Serialize, Deserialize)]
struct Saved {
    plan: Plan,
    record: Record,
}

/// Takes all steps that are left, saving in `folder` if there is one. Ctrl-C ends the
/// program after the present step.
///
/// # Errors
/// Those of a step; and at the end, when the last save failed. A save that fails before
/// does not end the run: the checkpoint before it is still there.
pub fn train(course: &mut Course, folder: Option<&Path>) -> Result<()> {
    // A second Ctrl-C does not wait. Only one handler can be set in a process.
    let _ = ctrlc::set_handler(|| {
        if STOP.swap(true, Ordering::Relaxed) {
            std::process::exit(INTERRUPTED);
        }
    });
    let mut saved = Ok(());
    let mut bar = show::Progress::new(course);
    while course.step < course.length() {
        course.advance()?;
        bar.tell(course);
        let due = course.step.is_multiple_of(SAVE_EVERY) || course.step == course.length();
        let stop = STOP.load(Ordering::Relaxed);
        if let Some(folder) = folder.filter(|_| due || stop) {
            saved = save(folder, course);
            if let Err(error) = &saved {
                eprintln!("not saved at step {}: {error:#}", course.step);
            }
        }
        if stop {
            bar.finish();
            stopped(course.step, folder, saved.is_ok());
        }
    }
    bar.finish();
    saved
}

/// Says how to go on, and ends the program.
fn stopped(step: usize, folder: Option<&Path>, saved: bool) -> ! {
    match folder {
        Some(folder) if saved => eprintln!(
            "stopped after step {step}; go on with: cargo run --bin ch10_rlvr -- --resume {}",
            folder.display()
        ),
        Some(_) => eprintln!("stopped after step {step}, which is not saved"),
        None => eprintln!("stopped after step {step}; with --save DIR it could go on"),
    }
    std::process::exit(INTERRUPTED)
}

/// Saves everything that the rest of the run depends on.
pub fn save(folder: &Path, course: &Course) -> Result<()> {
    let saved = Saved { plan: course.plan.clone(), record: course.record.clone() };
    checkpoint::save(folder, course.step, &saved, &course.variables(), &course.optimizer)?;
    Ok(())
}

/// The run that was saved in `folder`, as it was.
///
/// # Errors
/// Says what is wrong with the checkpoint, and which argument asks for another run than
/// the saved one.
pub fn resume(folder: &Path, args: &Args) -> Result<Course> {
    let found = checkpoint::load(folder)?;
    let Saved { plan, record } = found.settings()?;
    check(&plan, args)
        .with_context(|| format!("cannot resume from {}", folder.display()))?;
    let mut course = Course::new(plan, &args.run.device)?;
    course.step = found.restore(&course.variables(), &mut course.optimizer)?;
    course.record = record;
    eprintln!("going on after step {} of {}", course.step, course.length());
    Ok(course)
}

/// The saved settings decide; an argument may repeat them, but not change them.
fn check(plan: &Plan, args: &Args) -> Result<()> {
    let same = |name: &str, given: Option<String>, saved: String| {
        let given = given.unwrap_or_else(|| saved.clone());
        ensure!(
            given == saved,
            "{name} is {given}, and the saved run has {saved}: leave it out"
        );
        Ok(())
    };
    let text = |number: Option<usize>| number.map(|n| n.to_string());
    let seed = (args.run.seed != 0).then(|| args.run.seed.to_string());
    same("--task", args.task.map(|task| task.to_string()), plan.lesson.to_string())?;
    same("--seed", seed, plan.seed.to_string())?;
    same("--group-size", text(args.group_size), plan.group_size.to_string())?;
    same("--steps", text(args.steps), plan.steps.to_string())?;
    same("--sft-steps", text(args.sft_steps), plan.sft_steps.to_string())?;
    same("--lr", args.lr.map(|lr| lr.to_string()), plan.lr.to_string())?;
    same(
        "--quick",
        args.quick.then(|| "on".into()),
        if plan.quick { "on" } else { "off" }.into(),
    )
}
