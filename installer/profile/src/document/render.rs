//! Faults as text, each with the line it speaks of.

use annotate_snippets::{AnnotationKind, Element, Level, Origin, Renderer, Snippet};

use super::{Fault, Texts};

/// How faults are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Style {
    /// Text without colours, for logs, files and tests.
    #[default]
    Plain,
    /// With colours, for a terminal.
    Coloured,
}

/// Width of the text, in characters: longer lines are shown around the fault.
const WIDTH: usize = 140;

/// Lines longer than this many characters are cut before they are shown: laying out a line of a
/// megabyte for each of many faults would take long.
const LONGEST_LINE: usize = 2000;

/// All faults, an empty line between them, no line end after the last.
pub(super) fn render(texts: &Texts, faults: &[Fault], style: Style) -> String {
    let renderer = match style {
        Style::Plain => Renderer::plain(),
        Style::Coloured => Renderer::styled(),
    }
    .term_width(WIDTH);
    faults.iter().map(|fault| one(texts, fault, &renderer)).collect::<Vec<_>>().join("\n\n")
}

fn one(texts: &Texts, fault: &Fault, renderer: &Renderer) -> String {
    let mut group = annotate_snippets::Group::with_title(Level::ERROR.primary_title(&fault.message));
    let found = texts.line_of(fault);
    let line = found.as_ref().map(|(line, start)| (cut(line, fault.span.start.saturating_sub(*start)), *start));
    // The place is said by the snippet itself, but where the line is cut it would count from the cut.
    let whole = matches!(line, Some(((_, 0), _)));
    if !whole {
        group = group.element(Element::from(Origin::path(&fault.file).line(fault.line).char_column(fault.column)));
    }
    if let Some(((shown, from), start)) = line {
        let inside = |offset: usize| {
            let mut at = offset.saturating_sub(start + from).min(shown.len());
            while !shown.is_char_boundary(at) {
                at -= 1;
            }
            at
        };
        let span = inside(fault.span.start)..inside(fault.span.end).max(inside(fault.span.start));
        let snippet = Snippet::source(shown).line_start(fault.line).fold(false);
        let snippet = snippet.path(whole.then_some(fault.file.as_str()));
        group = group.element(snippet.annotation(AnnotationKind::Primary.span(span)));
    }
    if let Some(hint) = &fault.hint {
        group = group.element(Level::HELP.message(annotate_snippets::normalize_untrusted_str(hint)));
    }
    let text = renderer.render(&[group]);
    text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}

/// At most [`LONGEST_LINE`] characters of a line around `at`, and the offset of the first one.
fn cut(line: &str, at: usize) -> (&str, usize) {
    let boundary = |mut offset: usize| {
        offset = offset.min(line.len());
        while !line.is_char_boundary(offset) {
            offset -= 1;
        }
        offset
    };
    let from = if line.chars().nth(LONGEST_LINE).is_none() { 0 } else { boundary(at.saturating_sub(WIDTH)) };
    let rest = line.get(from..).unwrap_or_default();
    let end = rest.char_indices().nth(WIDTH * 4).map_or(rest.len(), |(end, _)| end);
    (rest.get(..end).unwrap_or_default(), from)
}
