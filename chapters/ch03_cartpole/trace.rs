//! What the page shows of single episodes: `episodes.json` for its player, and a strip of
//! frames for print and for readers without JavaScript.

use super::*;
use serde::Serialize;
use std::fmt::Write;

/// Every second step is enough for the eye.
const EVERY: usize = 2;

#[derive(Serialize)]
struct Trace {
    /// Seconds from frame to frame.
    seconds: f64,
    /// Steps from frame to frame.
    every: usize,
    episodes: Vec<Episode>,
}

/// One episode: positions and angles of its frames, and how it ended.
#[derive(Serialize)]
pub struct Episode {
    name: &'static str,
    pub steps: usize,
    pub end: &'static str,
    x: Vec<f64>,
    pub angle: Vec<f64>,
}

impl Episode {
    /// The first episode of `played`.
    pub fn new(name: &'static str, played: &Episodes) -> Self {
        let end = match played.ends[0] {
            End::Truncated => "still stands",
            _ if played.last[0][0].abs() > MAX_POSITION => "left the track",
            _ => "fell",
        };
        let seen = played.trace(0).into_iter().map(|(state, _)| state.map(f64::from));
        let mut frames: Vec<State> = seen.step_by(EVERY).collect();
        frames.push(played.last[0]);
        let rounded =
            |i: usize| frames.iter().map(|s| (s[i] * 1e3).round() / 1e3).collect();
        Self { name, steps: played.steps[0], end, x: rounded(0), angle: rounded(2) }
    }

    /// Position and angle at a step, the last ones after the end.
    fn at(&self, step: usize) -> (f64, f64) {
        let frame = step.min(self.steps).div_ceil(EVERY).min(self.x.len() - 1);
        (self.x[frame], self.angle[frame])
    }
}

/// Plays the rules and a learnt policy from one start, the first from which the better
/// rule does not stand.
pub fn write(out: &mut Output, run: &RunArgs, methods: &Methods) -> Result<()> {
    let starts = fresh_starts(run.seed);
    let better = cartpole::rollout(starts.clone(), angle_and_spin)?;
    let hard = better.ends.iter().position(|end| *end != End::Truncated).unwrap_or(0);
    let start = || vec![starts[hard]];
    let mut rng = seed::stream(run.seed, &[3, 3]);
    let learnt = greedy(&methods.grpo[0].policy, &run.device);
    let episodes = vec![
        Episode::new("random", &cartpole::rollout(start(), random(&mut rng))?),
        Episode::new("angle", &cartpole::rollout(start(), angle)?),
        Episode::new(
            "angle + angular velocity",
            &cartpole::rollout(start(), angle_and_spin)?,
        ),
        Episode::new("learnt by GRPO", &cartpole::rollout(start(), learnt)?),
    ];
    out.file("frames.svg", strip(&episodes)?.as_bytes())?;
    let trace = Trace { seconds: 0.02 * EVERY as f64, every: EVERY, episodes };
    out.file("episodes.json", serde_json::to_string(&trace)?.as_bytes())
}

/// The steps shown in the strip, and the sizes of its frames in pixels.
const SHOWN: [usize; 7] = [0, 10, 20, 40, 100, 250, 500];
const WIDTH: f64 = 104.0;
const ROW: f64 = 88.0;
const METRE: f64 = 19.0;
const POLE: f64 = 38.0;

/// A row of frames for each episode, at the same steps.
fn strip(episodes: &[Episode]) -> Result<String> {
    let (width, height) = (WIDTH * SHOWN.len() as f64, ROW * episodes.len() as f64 + 20.0);
    let mut svg = format!(
        "<svg width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" \
         xmlns=\"http://www.w3.org/2000/svg\" role=\"img\" font-family=\"sans-serif\" \
         font-size=\"13\">\n<title>Four episodes from one start</title>\n<desc>Frames of a cart \
         with a pole on a track:"
    );
    for Episode { name, steps, end, .. } in episodes {
        write!(svg, " {name}: {end}, {steps} steps.")?;
    }
    svg += "</desc>\n";
    for (i, step) in SHOWN.iter().enumerate() {
        let x = WIDTH * (i as f64 + 0.5);
        label(&mut svg, (x, height - 4.0), "middle", &format!("step {step}"))?;
    }
    for (row, episode) in episodes.iter().enumerate() {
        let top = ROW * row as f64;
        let Episode { name, steps, end, .. } = episode;
        label(
            &mut svg,
            (4.0, top + 16.0),
            "start",
            &format!("{name}: {end}, {steps} steps"),
        )?;
        let over = SHOWN.iter().position(|step| step >= steps).unwrap_or(SHOWN.len());
        for (i, &step) in SHOWN.iter().enumerate() {
            let middle = (WIDTH * (i as f64 + 0.5), top + ROW - 14.0);
            ground(&mut svg, middle)?;
            if i <= over {
                cart(&mut svg, middle, episode.at(step), step > *steps)?;
            }
        }
    }
    svg += "</svg>\n";
    Ok(svg)
}

fn label(svg: &mut String, (x, y): (f64, f64), anchor: &str, text: &str) -> Result<()> {
    let ink = "var(--plot-ink, #767676)";
    writeln!(
        svg,
        "<text x=\"{x}\" y=\"{y}\" text-anchor=\"{anchor}\" fill=\"{ink}\">{text}</text>"
    )?;
    Ok(())
}

/// The track with a post at each end.
fn ground(svg: &mut String, (x, y): (f64, f64)) -> Result<()> {
    let half = MAX_POSITION * METRE;
    let (left, right) = (x - half, x + half);
    writeln!(
        svg,
        "<path d=\"M{left:.1} {} V{y} H{right:.1} V{}\" fill=\"none\" stroke=\"var(--plot-8, \
         #767676)\"/>",
        y - 6.0,
        y - 6.0
    )?;
    Ok(())
}

/// A cart on the track, fainter when its episode is over.
fn cart(
    svg: &mut String,
    (x, y): (f64, f64),
    (position, angle): (f64, f64),
    over: bool,
) -> Result<()> {
    let x = x + position * METRE;
    let (tip_x, tip_y) = (x + POLE * angle.sin(), y - 10.0 - POLE * angle.cos());
    let opacity = if over { 0.45 } else { 1.0 };
    writeln!(
        svg,
        "<g opacity=\"{opacity}\"><rect x=\"{:.1}\" y=\"{:.1}\" width=\"22\" height=\"10\" rx=\"2\" \
         fill=\"var(--plot-1, #0072b2)\"/><path d=\"M{x:.1} {:.1} L{tip_x:.1} {tip_y:.1}\" \
         stroke=\"var(--plot-2, #d55e00)\" stroke-width=\"4\" stroke-linecap=\"round\"/></g>",
        x - 11.0,
        y - 11.0,
        y - 11.0
    )?;
    Ok(())
}
