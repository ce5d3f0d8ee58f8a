//! Figures as SVG: lines with bands, points, bars with error bars, histograms, in
//! panels side by side.
//!
//! A figure has no colours of its own. It is drawn in stand-in colours, and these are
//! then replaced by CSS variables with a fallback, so that a page can give it the
//! colours of its theme while the bare file is readable on white and on black.
//!
//! Left out: interaction, and every kind of chart that no chapter draws.

use crate::Result;
use anyhow::{Context, ensure};
use plotters::{
    coord::{Shift, types::RangedCoordf64},
    prelude::*,
    style::text_anchor::{HPos, Pos, VPos},
};

/// The colours, each as the stand-in it is drawn in and what replaces it. The first
/// three are axes and text, grid lines, and the ground that text may need behind it.
/// The series follow Okabe and Ito, whose colours stay apart for colour-blind eyes.
const COLOURS: [(RGBColor, &str); 11] = [
    (RGBColor(1, 1, 1), "var(--plot-ink, #767676)"),
    (RGBColor(2, 2, 2), "var(--plot-grid, #76767640)"),
    (RGBColor(3, 3, 3), "var(--plot-paper, #ffffff)"),
    (RGBColor(4, 4, 4), "var(--plot-1, #0072b2)"),
    (RGBColor(5, 5, 5), "var(--plot-2, #d55e00)"),
    (RGBColor(6, 6, 6), "var(--plot-3, #009e73)"),
    (RGBColor(7, 7, 7), "var(--plot-4, #cc79a7)"),
    (RGBColor(8, 8, 8), "var(--plot-5, #b58900)"),
    (RGBColor(9, 9, 9), "var(--plot-6, #56b4e9)"),
    (RGBColor(10, 10, 10), "var(--plot-7, #8c6bb1)"),
    (RGBColor(11, 11, 11), "var(--plot-8, #767676)"),
];
const INK: RGBColor = COLOURS[0].0;
const GRID: RGBColor = COLOURS[1].0;
const SERIES: usize = 3;
const FONT: (&str, i32) = ("sans-serif", 14);

/// How an axis maps numbers to places.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Scale {
    /// Equal steps.
    #[default]
    Linear,
    /// Equal factors of ten; numbers must be above 0.
    Log10,
}

/// One thing drawn in a panel. Colours are numbered from 0 to 7.
#[derive(Debug, Clone)]
enum Mark {
    Line { colour: usize, points: Vec<(f64, f64)>, dashed: bool },
    Band { colour: usize, points: Vec<(f64, f64, f64)> },
    Points { colour: usize, points: Vec<(f64, f64)> },
    Errors { colour: usize, points: Vec<(f64, f64, f64)> },
    Bars { colour: usize, bars: Vec<(f64, f64, f64)> },
}

/// One pair of axes and what is drawn between them.
#[derive(Debug, Clone, Default)]
pub struct Panel {
    title: String,
    x_label: String,
    y_label: String,
    x_scale: Scale,
    y_scale: Scale,
    x_range: Option<(f64, f64)>,
    y_range: Option<(f64, f64)>,
    categories: Vec<String>,
    marks: Vec<Mark>,
    legend: Vec<(usize, String)>,
    notes: Vec<(f64, f64, String)>,
}

impl Panel {
    /// An empty panel with the labels of its axes.
    pub fn new(x_label: &str, y_label: &str) -> Self {
        let (x_label, y_label) = (x_label.to_string(), y_label.to_string());
        Self { x_label, y_label, ..Self::default() }
    }

    /// A title above the panel.
    pub fn title(mut self, title: &str) -> Self {
        self.title = title.to_string();
        self
    }

    /// How the two axes map numbers to places.
    pub fn scales(mut self, x: Scale, y: Scale) -> Self {
        (self.x_scale, self.y_scale) = (x, y);
        self
    }

    /// The range of the x axis, where the data should not decide it.
    pub fn x_range(mut self, low: f64, high: f64) -> Self {
        self.x_range = Some((low, high));
        self
    }

    /// The range of the y axis, where the data should not decide it.
    pub fn y_range(mut self, low: f64, high: f64) -> Self {
        self.y_range = Some((low, high));
        self
    }

    /// Names in place of the numbers 0, 1, 2 … on the x axis.
    pub fn categories<S: ToString>(mut self, names: impl IntoIterator<Item = S>) -> Self {
        self.categories = names.into_iter().map(|name| name.to_string()).collect();
        self
    }

    /// An entry of the legend. Every method below that takes a label calls it; an
    /// empty label makes no entry.
    fn label(mut self, colour: usize, label: &str) -> Self {
        let entry = (colour, label.to_string());
        if !label.is_empty() && !self.legend.contains(&entry) {
            self.legend.push(entry);
        }
        self
    }

    /// A line through (x, y).
    pub fn line(self, colour: usize, label: &str, points: &[(f64, f64)]) -> Self {
        self.any_line(colour, label, points, false)
    }

    /// A dashed line through (x, y): what is expected, beside what was measured.
    pub fn dashed(self, colour: usize, label: &str, points: &[(f64, f64)]) -> Self {
        self.any_line(colour, label, points, true)
    }

    fn any_line(
        self,
        colour: usize,
        label: &str,
        points: &[(f64, f64)],
        dashed: bool,
    ) -> Self {
        let mut panel = self.label(colour, label);
        panel.marks.push(Mark::Line { colour, points: points.to_vec(), dashed });
        panel
    }

    /// The mean of several curves with a band of one standard deviation to each side.
    /// `curves` holds one curve a seed, all with the same `x`.
    pub fn mean_band(
        self,
        colour: usize,
        label: &str,
        x: &[f64],
        curves: &[Vec<f64>],
    ) -> Self {
        let at = |i: usize| {
            let numbers: Vec<f64> =
                curves.iter().filter_map(|c| c.get(i).copied()).collect();
            crate::stats::mean_std(&numbers)
        };
        let stats: Vec<(f64, f64, f64)> =
            x.iter().enumerate().map(|(i, &x)| (x, at(i).0, at(i).1)).collect();
        let band: Vec<_> =
            stats.iter().map(|(x, mean, std)| (*x, mean - std, mean + std)).collect();
        let mean: Vec<_> = stats.iter().map(|(x, mean, _)| (*x, *mean)).collect();
        self.band(colour, &band).line(colour, label, &mean)
    }

    /// A shaded band between two curves, as (x, low, high).
    pub fn band(mut self, colour: usize, points: &[(f64, f64, f64)]) -> Self {
        self.marks.push(Mark::Band { colour, points: points.to_vec() });
        self
    }

    /// Dots at (x, y).
    pub fn points(self, colour: usize, label: &str, points: &[(f64, f64)]) -> Self {
        let mut panel = self.label(colour, label);
        panel.marks.push(Mark::Points { colour, points: points.to_vec() });
        panel
    }

    /// Dots with error bars, as (x, y, half the length of the bar).
    pub fn errors(self, colour: usize, label: &str, points: &[(f64, f64, f64)]) -> Self {
        let mut panel = self.label(colour, label);
        panel.marks.push(Mark::Errors { colour, points: points.to_vec() });
        panel
    }

    /// Bars from 0 to y, centred on x, `width` wide, as (x, y).
    pub fn bars(
        self,
        colour: usize,
        label: &str,
        width: f64,
        points: &[(f64, f64)],
    ) -> Self {
        let bars =
            points.iter().map(|&(x, y)| (x - width / 2.0, x + width / 2.0, y)).collect();
        let mut panel = self.label(colour, label);
        panel.marks.push(Mark::Bars { colour, bars });
        panel
    }

    /// Bars in two colours, as advantages are shown: one for y ≥ 0, one for y < 0.
    pub fn signed_bars(self, width: f64, points: &[(f64, f64)]) -> Self {
        let (up, down): (Vec<_>, Vec<_>) = points.iter().partition(|(_, y)| *y >= 0.0);
        self.bars(2, "", width, &up).bars(1, "", width, &down)
    }

    /// How often `numbers` fall into each of `bins` equal intervals of `low..high`.
    pub fn histogram(
        self,
        colour: usize,
        label: &str,
        numbers: &[f64],
        (low, high): (f64, f64),
        bins: usize,
    ) -> Self {
        let width = (high - low) / bins as f64;
        let mut counts = vec![0.0; bins];
        for x in numbers.iter().filter(|x| (low..high).contains(*x)) {
            let bin = ((x - low) / width) as usize;
            counts[bin.min(bins - 1)] += 1.0;
        }
        let middle = |i: usize| low + (i as f64 + 0.5) * width;
        let points: Vec<_> =
            counts.iter().enumerate().map(|(i, &n)| (middle(i), n)).collect();
        self.bars(colour, label, width, &points)
    }

    /// A few words inside the panel, centred just above (x, y).
    pub fn note(mut self, x: f64, y: f64, text: &str) -> Self {
        self.notes.push((x, y, text.to_string()));
        self
    }

    /// The corners of everything drawn, as ((x low, x high), (y low, y high)), in the
    /// units of the scales.
    fn extent(&self) -> ((f64, f64), (f64, f64)) {
        let mut x = Extent::default();
        let mut y = Extent::default();
        for mark in &self.marks {
            match mark {
                Mark::Line { points, .. } | Mark::Points { points, .. } => {
                    points.iter().for_each(|p| (x.add(p.0), y.add(p.1)).1)
                }
                Mark::Band { points, .. } => points.iter().for_each(|p| {
                    x.add(p.0);
                    y.add(p.1);
                    y.add(p.2);
                }),
                Mark::Errors { points, .. } => points.iter().for_each(|p| {
                    x.add(p.0);
                    y.add(p.1 - p.2);
                    y.add(p.1 + p.2);
                }),
                Mark::Bars { bars, .. } => bars.iter().for_each(|b| {
                    x.add(b.0);
                    x.add(b.1);
                    y.add(b.2);
                    if self.y_scale == Scale::Linear {
                        y.add(0.0);
                    }
                }),
            }
        }
        (
            x.range(self.x_scale, self.x_range, 0.02),
            y.range(self.y_scale, self.y_range, 0.06),
        )
    }
}

/// The smallest and largest finite number seen.
struct Extent(f64, f64);

impl Default for Extent {
    fn default() -> Self {
        Self(f64::INFINITY, f64::NEG_INFINITY)
    }
}

impl Extent {
    fn add(&mut self, x: f64) {
        if x.is_finite() {
            *self = Self(self.0.min(x), self.1.max(x));
        }
    }

    /// The range with a margin on both sides, or the `wanted` one as it is.
    fn range(&self, scale: Scale, wanted: Option<(f64, f64)>, margin: f64) -> (f64, f64) {
        let (low, high) = wanted.unwrap_or((self.0, self.1));
        let (low, high) = match scale {
            Scale::Linear => (low, high),
            Scale::Log10 => (low.max(1e-300).log10(), high.max(1e-300).log10()),
        };
        match (low.is_finite() && high.is_finite(), wanted.is_some(), high > low) {
            (false, _, _) => (0.0, 1.0),
            (true, true, true) => (low, high),
            (true, _, false) => (low - 0.5, low + 0.5),
            (true, false, true) => {
                let margin = margin * (high - low);
                (low - margin, high + margin)
            }
        }
    }
}

/// A figure: panels side by side, with a title and a description for those who cannot
/// see it.
#[derive(Debug, Clone)]
pub struct Figure {
    title: String,
    description: String,
    panels: Vec<Panel>,
    columns: usize,
    panel_size: (u32, u32),
}

impl Figure {
    /// A figure with these panels in one row. The title names it, the description says
    /// what can be seen in it; neither is drawn.
    pub fn new(title: &str, description: &str, panels: Vec<Panel>) -> Self {
        let columns = panels.len().max(1);
        let panel_size = match columns {
            1 => (720, 380),
            2 => (380, 330),
            _ => (310, 300),
        };
        let (title, description) = (title.to_string(), description.to_string());
        Self { title, description, panels, columns, panel_size }
    }

    /// Puts at most `columns` panels into a row.
    pub fn columns(mut self, columns: usize) -> Self {
        self.columns = columns.max(1);
        if self.columns == 2 {
            self.panel_size = (380, 330);
        }
        self
    }

    /// The size of each panel in pixels, where the usual one does not suit.
    pub fn panel_size(mut self, width: u32, height: u32) -> Self {
        self.panel_size = (width, height);
        self
    }

    /// The figure as a standalone SVG document.
    ///
    /// # Errors
    /// When a log scale meets a number that is not above 0, or a panel is too small.
    pub fn svg(&self) -> Result<String> {
        let rows = self.panels.len().div_ceil(self.columns).max(1);
        let (width, height) =
            (self.panel_size.0 * self.columns as u32, self.panel_size.1 * rows as u32);
        let mut drawn = String::new();
        {
            let root =
                SVGBackend::with_string(&mut drawn, (width, height)).into_drawing_area();
            for (area, panel) in
                root.split_evenly((rows, self.columns)).iter().zip(&self.panels)
            {
                draw(area, panel)
                    .with_context(|| format!("cannot draw the figure `{}`", self.title))?;
            }
            root.present()?;
        }
        for (colour, variable) in COLOURS {
            let RGBColor(r, g, b) = colour;
            drawn = drawn.replace(
                &format!("\"#{r:02X}{g:02X}{b:02X}\""),
                &format!("\"{variable}\""),
            );
        }
        let body = drawn.split_once("<svg").and_then(|(_, rest)| rest.split_once('>'));
        let (_, body) = body.context("the SVG backend wrote no <svg> element")?;
        Ok(format!(
            "<svg width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" \
             xmlns=\"http://www.w3.org/2000/svg\" role=\"img\">\n\
             <title>{}</title>\n<desc>{}</desc>{body}",
            escape(&self.title),
            escape(&self.description)
        ))
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Chart<'a, 'b> =
    ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

fn text(size: f64, h: HPos, v: VPos) -> TextStyle<'static> {
    let font = (FONT.0, (size * f64::from(FONT.1)).round() as i32);
    font.into_font().color(&INK).pos(Pos::new(h, v))
}

/// Title, legend, axes, marks, notes: in this order, so that notes lie on top.
fn draw(area: &Area<'_>, panel: &Panel) -> Result<()> {
    let (width, _) = area.dim_in_pixel();
    let mut top = 6;
    if !panel.title.is_empty() {
        let style = text(1.05, HPos::Center, VPos::Top);
        area.draw(&Text::new(panel.title.clone(), (width as i32 / 2, top), style))?;
        top += 22;
    }
    top = draw_legend(area, panel, top)?;
    let ((x0, x1), (y0, y1)) = panel.extent();
    for (axis, scale, low) in [("x", panel.x_scale, x0), ("y", panel.y_scale, y0)] {
        ensure!(
            scale == Scale::Linear || low > -299.0,
            "a number on the log {axis} axis is not above 0"
        );
    }
    let mut chart = ChartBuilder::on(area)
        .margin_top(top)
        .margin_right(18)
        .margin_left(4)
        .margin_bottom(4)
        .x_label_area_size(42)
        .y_label_area_size(58)
        .build_cartesian_2d(x0..x1, y0..y1)?;
    draw_axes(&mut chart, panel)?;
    if panel.y_scale == Scale::Linear && y0 < 0.0 && y1 > 0.0 {
        let zero = [(x0, 0.0), (x1, 0.0)];
        chart.draw_series(LineSeries::new(zero, INK))?;
    }
    for mark in &panel.marks {
        draw_mark(&mut chart, panel, mark)?;
    }
    for (x, y, note) in &panel.notes {
        let at = place(panel, (*x, *y));
        let label = EmptyElement::at(at)
            + Text::new(note.clone(), (0, -7), text(0.9, HPos::Center, VPos::Bottom));
        chart.draw_series(std::iter::once(label))?;
    }
    Ok(())
}

/// Entries from left to right, in as many lines as they need; returns where the last
/// line ends. Text is about half as wide as it is high: there are no fonts to ask.
fn draw_legend(area: &Area<'_>, panel: &Panel, top: i32) -> Result<i32> {
    let width = area.dim_in_pixel().0 as i32;
    let (mut x, mut y) = (62, top + 4);
    for (colour, label) in &panel.legend {
        let length = 30 + (label.chars().count() as f64 * 6.8) as i32;
        if x + length > width - 10 && x > 62 {
            (x, y) = (62, y + 19);
        }
        let style = series(*colour).filled();
        area.draw(&Rectangle::new([(x, y + 4), (x + 14, y + 9)], style))?;
        let style = text(0.9, HPos::Left, VPos::Center);
        area.draw(&Text::new(label.clone(), (x + 19, y + 7), style))?;
        x += length;
    }
    Ok(if panel.legend.is_empty() { top + 6 } else { y + 24 })
}

fn series(colour: usize) -> RGBColor {
    COLOURS[SERIES + colour % (COLOURS.len() - SERIES)].0
}

/// A point in the units of the scales.
fn place(panel: &Panel, (x, y): (f64, f64)) -> (f64, f64) {
    let scaled = |scale: Scale, x: f64| match scale {
        Scale::Linear => x,
        Scale::Log10 => x.max(1e-300).log10(),
    };
    (scaled(panel.x_scale, x), scaled(panel.y_scale, y))
}

fn draw_axes(chart: &mut Chart<'_, '_>, panel: &Panel) -> Result<()> {
    let format = |scale: Scale| {
        move |x: &f64| match scale {
            Scale::Linear => tick(*x),
            Scale::Log10 if (x - x.round()).abs() < 1e-6 => power_of_ten(x.round() as i32),
            Scale::Log10 => String::new(),
        }
    };
    let names = |x: &f64| {
        let whole = (x - x.round()).abs() < 1e-6 && *x >= -0.01;
        let name = whole.then(|| panel.categories.get(x.round() as usize)).flatten();
        name.cloned().unwrap_or_default()
    };
    let (number_x, number_y) = (format(panel.x_scale), format(panel.y_scale));
    let x_format: &dyn Fn(&f64) -> String = match panel.categories.is_empty() {
        true => &number_x,
        false => &names,
    };
    // Few enough that labels never touch, enough that every category has one.
    let width = chart.plotting_area().dim_in_pixel().0 as usize;
    let x_labels = match panel.categories.len() {
        0 => (width / 62).max(3),
        n => 2 * n + 3,
    };
    let mut mesh = chart.configure_mesh();
    mesh.x_labels(x_labels).y_labels(7);
    mesh.x_label_formatter(&x_format).y_label_formatter(&number_y);
    mesh.label_style(text(0.9, HPos::Center, VPos::Center));
    mesh.axis_desc_style(text(1.0, HPos::Center, VPos::Center));
    mesh.axis_style(INK).bold_line_style(GRID).disable_x_mesh();
    mesh.light_line_style(TRANSPARENT);
    mesh.x_desc(panel.x_label.as_str()).y_desc(panel.y_label.as_str());
    mesh.draw()?;
    Ok(())
}

/// A number as short as it can be on an axis: 0.25, 10, 20000, 1e-6.
fn tick(x: f64) -> String {
    let x = if x.abs() < 1e-12 { 0.0 } else { x };
    let plain = format!("{x:.6}").trim_end_matches('0').trim_end_matches('.').to_string();
    match x.abs() {
        0.0 => "0".to_string(),
        small if small < 1e-4 => format!("{x:e}"),
        _ => plain.replace('-', "−"),
    }
}

fn power_of_ten(exponent: i32) -> String {
    match exponent {
        -3..=-1 => format!("{}", 10f64.powi(exponent)),
        0..=3 => format!("{}", 10u32.pow(exponent as u32)),
        _ => {
            let digits = exponent.to_string();
            let raised = |c: char| match c {
                '-' => '⁻',
                '1' => '¹',
                '2' => '²',
                '3' => '³',
                digit => {
                    char::from_u32('⁰' as u32 + digit as u32 - '0' as u32).unwrap_or(digit)
                }
            };
            format!("10{}", digits.chars().map(raised).collect::<String>())
        }
    }
}

fn draw_mark(chart: &mut Chart<'_, '_>, panel: &Panel, mark: &Mark) -> Result<()> {
    let at = |x: f64, y: f64| place(panel, (x, y));
    let finite = |(x, y): &(f64, f64)| x.is_finite() && y.is_finite();
    match mark {
        Mark::Line { colour, points, dashed } => {
            let points = points.iter().map(|p| at(p.0, p.1)).filter(finite);
            let style = series(*colour).stroke_width(2);
            match dashed {
                false => chart.draw_series(LineSeries::new(points, style))?,
                true => chart.draw_series(DashedLineSeries::new(points, 6, 5, style))?,
            };
        }
        Mark::Band { colour, points } => {
            let low = points.iter().map(|p| at(p.0, p.1));
            let high = points.iter().rev().map(|p| at(p.0, p.2));
            let corners: Vec<_> = low.chain(high).filter(finite).collect();
            let fill = series(*colour).mix(0.2).filled();
            chart.draw_series(std::iter::once(Polygon::new(corners, fill)))?;
        }
        Mark::Points { colour, points } => {
            let dot =
                |p: &(f64, f64)| Circle::new(at(p.0, p.1), 4, series(*colour).filled());
            chart.draw_series(points.iter().filter(|p| finite(p)).map(dot))?;
        }
        Mark::Errors { colour, points } => {
            let style = series(*colour).stroke_width(2);
            let bar = |&(x, y, half): &(f64, f64, f64)| {
                let (low, high) = (at(x, y - half).1, at(x, y + half).1);
                ErrorBar::new_vertical(at(x, y).0, low, at(x, y).1, high, style.filled(), 8)
            };
            chart.draw_series(points.iter().map(bar))?;
        }
        Mark::Bars { colour, bars } => {
            let floor = match panel.y_scale {
                Scale::Linear => 0.0,
                Scale::Log10 => chart.y_range().start,
            };
            let bar = |&(left, right, y): &(f64, f64, f64)| {
                let corners = [at(left, y), (at(right, y).0, floor)];
                Rectangle::new(corners, series(*colour).mix(0.85).filled())
            };
            chart.draw_series(bars.iter().map(bar))?;
        }
    }
    Ok(())
}
