//! Markdown as a terminal shows it.
//!
//! Runs in: a process of its own, of the command line. Pure. pulldown-cmark reads, termimad lays out: paragraphs joined and
//! wrapped, links without their targets when these are files of this repository, tables as lists where they would not fit.

use pulldown_cmark::{CodeBlockKind, Event, HeadingLevel, Options, Parser, Tag, TagEnd};
use termimad::{
    CompoundStyle, FmtText, MadSkin,
    crossterm::style::{Attribute, Color},
    minimad::{Alignment, Composite, CompositeStyle, Compound, Line, Text},
};

/// How much the terminal can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    /// Not even bold letters.
    None,
    /// The user wants no colors.
    Bold,
    Colors,
}

/// The text, laid out for so many columns.
#[must_use]
pub(crate) fn shown(text: &str, width: usize, style: Style) -> String {
    let mut page = Page { width, ..Page::default() };
    for event in Parser::new_ext(text, Options::ENABLE_TABLES | Options::ENABLE_STRIKETHROUGH) {
        page.take(event);
    }
    let lines = page.lines.iter().map(Piece::line).collect();
    let skin = skin(style);
    FmtText::from_text(&skin, Text { lines }, Some(width)).to_string()
}

fn skin(style: Style) -> MadSkin {
    let mut skin = MadSkin::no_style();
    if style == Style::None {
        return skin;
    }
    skin.bold = CompoundStyle::with_attr(Attribute::Bold);
    skin.italic = CompoundStyle::with_attr(Attribute::Italic);
    skin.headers.iter_mut().for_each(|header| header.add_attr(Attribute::Bold));
    skin.headers[0].add_attr(Attribute::Underlined);
    if style == Style::Colors {
        // Colors of the sixteen, which users choose to fit their background.
        skin.set_headers_fg(Color::DarkCyan);
        skin.inline_code = CompoundStyle::with_fg(Color::DarkGreen);
        skin.code_block.set_fg(Color::DarkGreen);
        skin.table.compound_style = CompoundStyle::with_fg(Color::DarkGrey);
    }
    skin
}

/// A run of letters in one style.
#[derive(Debug, Clone, Default)]
struct Run {
    text: String,
    bold: bool,
    italic: bool,
    code: bool,
}

/// A line of the page, or a row of a table.
#[derive(Debug)]
enum Piece {
    Line(CompositeStyle, Vec<Run>),
    Row(Vec<Vec<Run>>),
    Rule(usize),
    Ruler,
}

impl Piece {
    fn line(&self) -> Line<'_> {
        match self {
            Self::Line(style, runs) => Line::Normal(composite(*style, runs)),
            Self::Row(cells) => {
                Line::new_table_row(cells.iter().map(|cell| composite(CompositeStyle::Paragraph, cell)).collect())
            }
            Self::Rule(columns) => Line::new_table_alignments(vec![Alignment::Left; *columns]),
            Self::Ruler => Line::HorizontalRule,
        }
    }
}

fn composite(style: CompositeStyle, runs: &[Run]) -> Composite<'_> {
    let compounds = runs
        .iter()
        .map(|run| Compound {
            src: &run.text,
            bold: run.bold,
            italic: run.italic,
            code: run.code && style != CompositeStyle::Code,
            strikeout: false,
        })
        .collect();
    Composite { style, compounds }
}

#[derive(Debug, Default)]
struct Page {
    width: usize,
    lines: Vec<Piece>,
    /// Of the paragraph, item or cell that is being read.
    runs: Vec<Run>,
    bold: bool,
    italic: bool,
    /// A number for each list around, if it has numbers.
    lists: Vec<Option<u64>>,
    code: bool,
    cells: Vec<Vec<Run>>,
    head: Vec<Vec<Run>>,
    rows: Vec<Vec<Vec<Run>>>,
    /// Where a link outside leads.
    target: Option<String>,
}

impl Page {
    fn take(&mut self, event: Event<'_>) {
        match event {
            Event::Start(tag) => self.begin(tag),
            Event::End(tag) => self.end(tag),
            Event::Text(text) if self.code => self.code_lines(&text),
            Event::Text(text) => self.add(&text, false),
            Event::Code(text) => self.add(&text, true),
            Event::SoftBreak => self.add(" ", false),
            Event::HardBreak => self.close(self.kind()),
            Event::Rule => self.lines.push(Piece::Ruler),
            _ => {}
        }
    }

    fn begin(&mut self, tag: Tag<'_>) {
        match tag {
            Tag::Strong => self.bold = true,
            Tag::Emphasis => self.italic = true,
            Tag::Heading { .. } => self.gap(),
            Tag::Paragraph if self.lists.is_empty() => self.gap(),
            Tag::List(first) => {
                if self.lists.is_empty() {
                    self.gap();
                } else {
                    self.close(self.kind());
                }
                self.lists.push(first);
            }
            Tag::CodeBlock(CodeBlockKind::Fenced(_) | CodeBlockKind::Indented) => {
                self.gap();
                self.code = true;
            }
            Tag::Table(_) => self.gap(),
            Tag::Link { dest_url, .. } if dest_url.contains("://") => self.target = Some(dest_url.into_string()),
            _ => {}
        }
    }

    fn end(&mut self, tag: TagEnd) {
        match tag {
            TagEnd::Strong => self.bold = false,
            TagEnd::Emphasis => self.italic = false,
            TagEnd::Heading(level) => self.close(CompositeStyle::Header(depth(level))),
            TagEnd::Paragraph => self.close(self.kind()),
            TagEnd::Item => {
                self.close(self.kind());
                if let Some(Some(number)) = self.lists.last_mut() {
                    *number += 1;
                }
            }
            TagEnd::List(_) => {
                self.lists.pop();
            }
            TagEnd::CodeBlock => self.code = false,
            TagEnd::TableCell => self.cells.push(std::mem::take(&mut self.runs)),
            TagEnd::TableHead => self.head = std::mem::take(&mut self.cells),
            TagEnd::TableRow => self.rows.push(std::mem::take(&mut self.cells)),
            TagEnd::Table => self.table(),
            TagEnd::Link => {
                if let Some(target) = self.target.take() {
                    self.add(&format!(" ({target})"), false);
                }
            }
            _ => {}
        }
    }

    fn add(&mut self, text: &str, code: bool) {
        let (bold, italic) = (self.bold, self.italic);
        self.runs.push(Run { text: text.to_owned(), bold, italic, code });
    }

    /// How the line that is being read is shown.
    fn kind(&self) -> CompositeStyle {
        let level = u8::try_from(self.lists.len().saturating_sub(1)).unwrap_or(u8::MAX);
        match self.lists.last() {
            None => CompositeStyle::Paragraph,
            Some(None) => CompositeStyle::ListItem(level),
            Some(Some(number)) => {
                CompositeStyle::OrderedListItem { level, index: u32::try_from(*number).unwrap_or(u32::MAX) }
            }
        }
    }

    fn close(&mut self, style: CompositeStyle) {
        if !self.runs.is_empty() {
            self.lines.push(Piece::Line(style, std::mem::take(&mut self.runs)));
        }
    }

    /// An empty line between two blocks.
    fn gap(&mut self) {
        if !self.lines.is_empty() {
            self.lines.push(Piece::Line(CompositeStyle::Paragraph, Vec::new()));
        }
    }

    fn code_lines(&mut self, text: &str) {
        for line in text.lines() {
            // Where both do not fit on one line, what is said of the code stands below it.
            let said = line.find("  #").filter(|_| line.chars().count() + 2 > self.width);
            let (code, said) = said.map_or((line, None), |at| (line[..at].trim_end(), Some(line[at..].trim_start())));
            let said = said.map(|said| format!("    {said}"));
            for text in std::iter::once(format!("  {code}")).chain(said) {
                self.lines.push(Piece::Line(CompositeStyle::Code, vec![Run { text, ..Run::default() }]));
            }
        }
    }

    /// As a table where no column has to break its words, else as a list.
    fn table(&mut self) {
        let (mut head, rows) = (std::mem::take(&mut self.head), std::mem::take(&mut self.rows));
        head.iter_mut().flatten().for_each(|run| run.bold = true);
        if !self.fits(&head, &rows) {
            self.lines.extend(rows.into_iter().flat_map(|row| listed(&head, row)));
            return;
        }
        let columns = head.len();
        self.lines.push(Piece::Rule(columns));
        self.lines.push(Piece::Row(head));
        self.lines.push(Piece::Rule(columns));
        self.lines.extend(rows.into_iter().map(Piece::Row));
        self.lines.push(Piece::Rule(columns));
    }

    fn fits(&self, head: &[Vec<Run>], rows: &[Vec<Vec<Run>>]) -> bool {
        let length = |cell: &Vec<Run>| cell.iter().map(|run| run.text.chars().count()).sum::<usize>();
        let all = || rows.iter().map(Vec::as_slice).chain([head]);
        let widest = |column: usize| all().filter_map(|row| row.get(column)).map(length).max().unwrap_or(0);
        // The last column is wrapped, the others are as wide as they are.
        let before: usize = (0..head.len().saturating_sub(1)).map(|column| widest(column) + 1).sum();
        let last = widest(head.len().saturating_sub(1));
        before + last + 2 <= self.width || before <= self.width / 3
    }
}

/// A row as items: its first cell, and below it the others, each behind the head of its column. A row without a first cell
/// goes on with the one above.
fn listed(head: &[Vec<Run>], row: Vec<Vec<Run>>) -> Vec<Piece> {
    let mut lines = Vec::new();
    for (place, (head, mut cell)) in head.iter().zip(row).enumerate().filter(|(_, (_, cell))| !cell.is_empty()) {
        if place == 0 {
            cell.iter_mut().for_each(|run| run.bold = true);
            lines.push(Piece::Line(CompositeStyle::ListItem(0), cell));
            continue;
        }
        let mut runs: Vec<Run> = head.iter().map(|run| Run { bold: false, italic: true, ..run.clone() }).collect();
        if !runs.is_empty() {
            runs.push(Run { text: ": ".to_owned(), ..Run::default() });
        }
        runs.extend(cell);
        lines.push(Piece::Line(CompositeStyle::ListItem(1), runs));
    }
    lines
}

fn depth(level: HeadingLevel) -> u8 {
    level as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_fits_its_width_and_loses_no_word() {
        let text = "# Head\n\nOne `a|b`\nline with **bold** and [a link](x.md).\n\n| name | what |\n|---|---|\n| `x\\|y` | a long \
                    row of words that does not fit into forty columns |\n\n```console\n$ run\n$ list sessions              # what there is\n```\n\n1. first\n2. second\n";
        for width in [40, 100] {
            let page = shown(text, width, Style::None);
            let said = if width == 40 {
                "  $ list sessions\n    # what there is"
            } else {
                "  $ list sessions              # what"
            };
            assert!(page.lines().map(str::trim_end).collect::<Vec<_>>().join("\n").contains(said), "{page}");
            assert!(!page.contains('\u{1b}') && page.lines().all(|line| line.chars().count() <= width), "{page}");
            let words = page.split_whitespace().collect::<Vec<_>>().join(" ");
            for part in ["One a|b line with bold and a link.", "x|y", "$ run", "1. first", "2. second"] {
                assert!(words.contains(part), "{part}: {page}");
            }
        }
        assert!(shown(text, 80, Style::Colors).contains("\u{1b}["));
    }
}
