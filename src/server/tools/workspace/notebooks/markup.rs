//! Text as HTML: escaped, coloured as its escape sequences say, Python highlighted, Markdown rendered.
//!
//! Runs in: server, on blocking threads. Pure. Whatever comes in, what goes out holds no script and loads nothing.

use std::fmt::Write as _;

use anstyle_parse::{DefaultCharAccumulator, Params, Parser, Perform};
use pulldown_cmark::{CodeBlockKind, Event, Options, Parser as Markdown, Tag, TagEnd, html};

/// For text and for attributes in quotes. Control characters that HTML has no place for become visible marks.
#[must_use]
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len() + text.len() / 8);
    text.chars().for_each(|letter| push(&mut escaped, letter));
    escaped
}

fn push(escaped: &mut String, letter: char) {
    match letter {
        '&' => escaped.push_str("&amp;"),
        '<' => escaped.push_str("&lt;"),
        '>' => escaped.push_str("&gt;"),
        '"' => escaped.push_str("&quot;"),
        '\'' => escaped.push_str("&#39;"),
        '\n' | '\t' => escaped.push(letter),
        '\r' => {}
        control if control.is_control() => escaped.push('\u{fffd}'),
        other => escaped.push(other),
    }
}

/// Markdown as HTML; HTML in it stands as text. `image` gives the data of an attachment, for addresses that name one.
#[must_use]
pub(crate) fn markdown(text: &str, image: impl Fn(&str) -> Option<String>) -> String {
    let options =
        Options::ENABLE_TABLES | Options::ENABLE_STRIKETHROUGH | Options::ENABLE_TASKLISTS | Options::ENABLE_FOOTNOTES;
    let visible = |letter: char| if letter.is_control() && !"\n\t\r".contains(letter) { '\u{fffd}' } else { letter };
    let text: String = text.chars().map(visible).collect();
    let mut is_python = false;
    let events = Markdown::new_ext(&text, options).map(|event| match event {
        Event::Start(Tag::CodeBlock(CodeBlockKind::Fenced(language))) => {
            is_python = ["python", "python3", "py", "ipython", "ipython3"].contains(&language.trim());
            Event::Start(Tag::CodeBlock(CodeBlockKind::Fenced(language)))
        }
        Event::End(TagEnd::CodeBlock) => {
            is_python = false;
            Event::End(TagEnd::CodeBlock)
        }
        Event::Text(code) if is_python => Event::Html(python(&code).into()),
        Event::Html(raw) | Event::InlineHtml(raw) => Event::Text(raw),
        Event::Start(Tag::Image { link_type, dest_url, title, id }) => {
            let attached = dest_url.strip_prefix("attachment:").and_then(&image);
            let is_picture = PICTURES.iter().any(|begin| dest_url.starts_with(begin));
            let dest_url = match attached {
                Some(data) => data.into(),
                None if is_picture || leads_somewhere(&dest_url) => dest_url,
                None => "".into(),
            };
            Event::Start(Tag::Image { link_type, dest_url, title, id })
        }
        Event::Start(Tag::Link { link_type, dest_url, title, id }) => {
            let dest_url = if leads_somewhere(&dest_url) { dest_url } else { "".into() };
            Event::Start(Tag::Link { link_type, dest_url, title, id })
        }
        other => other,
    });
    let mut page = String::with_capacity(text.len() * 2);
    html::push_html(&mut page, events);
    page
}

/// How pictures begin that are in the text itself.
const PICTURES: [&str; 4] = ["data:image/png;", "data:image/jpeg;", "data:image/gif;", "data:image/webp;"];

/// An address that runs nothing when it is followed.
fn leads_somewhere(address: &str) -> bool {
    let scheme = address.split(['/', '?', '#']).next().unwrap_or_default();
    match scheme.split_once(':') {
        None => true,
        Some((scheme, _)) => ["http", "https", "mailto"].iter().any(|known| scheme.eq_ignore_ascii_case(known)),
    }
}

/// Text with the colours of its escape sequences; all other sequences are left out.
#[must_use]
pub(crate) fn ansi(text: &str) -> String {
    if !text.contains('\u{1b}') {
        return escape(text);
    }
    let mut painter = Painter::default();
    let mut parser = Parser::<DefaultCharAccumulator>::new();
    for byte in text.bytes() {
        parser.advance(&mut painter, byte);
    }
    painter.close();
    painter.page
}

/// What has been painted, and how it goes on.
#[derive(Default)]
struct Painter {
    page: String,
    style: Style,
    open: bool,
}

#[derive(Default, Clone, PartialEq)]
struct Style {
    classes: [bool; 4],
    colours: [Option<Colour>; 2],
    inverse: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum Colour {
    Named(u16),
    Exact(u16, u16, u16),
}

/// Bold, faint, italic, underlined: numbers of the sequences that begin them.
const CLASSES: [(u16, &str); 4] = [(1, "ab"), (2, "af"), (3, "ai"), (4, "au")];

impl Painter {
    fn close(&mut self) {
        if std::mem::take(&mut self.open) {
            self.page.push_str("</span>");
        }
    }

    fn set(&mut self, style: Style) {
        if style == self.style {
            return;
        }
        self.close();
        self.style = style;
        if self.style == Style::default() {
            return;
        }
        let mut classes: Vec<String> = CLASSES
            .iter()
            .zip(self.style.classes)
            .filter(|(_, on)| *on)
            .map(|((_, class), _)| (*class).to_owned())
            .collect();
        let mut exact = String::new();
        let [front, back] = self.style.colours;
        let colours = if self.style.inverse { [back, front] } else { [front, back] };
        for (place, colour) in [("c", "color"), ("b", "background-color")].into_iter().zip(colours) {
            match (place, colour) {
                ((letter, _), Some(Colour::Named(number))) => classes.push(format!("a{letter}{number}")),
                ((_, property), Some(Colour::Exact(red, green, blue))) => {
                    let _ = write!(exact, "{property}:rgb({red},{green},{blue});");
                }
                _ => {}
            }
        }
        if self.style.inverse && colours == [None, None] {
            classes.push("av".to_owned());
        }
        let style = if exact.is_empty() { exact } else { format!(" style=\"{exact}\"") };
        let _ = write!(self.page, "<span class=\"{}\"{style}>", classes.join(" "));
        self.open = true;
    }
}

impl Perform for Painter {
    fn print(&mut self, letter: char) {
        push(&mut self.page, letter);
    }

    fn execute(&mut self, byte: u8) {
        push(&mut self.page, char::from(byte));
    }

    fn csi_dispatch(&mut self, params: &Params, _intermediates: &[u8], _ignore: bool, action: u8) {
        if action != b'm' {
            return;
        }
        let mut style = self.style.clone();
        let mut codes = params.iter().flat_map(|group| group.iter().copied());
        while let Some(code) = codes.next() {
            match code {
                0 => style = Style::default(),
                1..=4 => style.classes[usize::from(code) - 1] = true,
                7 => style.inverse = true,
                22 => (style.classes[0], style.classes[1]) = (false, false),
                23 | 24 => style.classes[usize::from(code) - 21] = false,
                27 => style.inverse = false,
                30..=37 => style.colours[0] = Some(Colour::Named(code - 30)),
                90..=97 => style.colours[0] = Some(Colour::Named(code - 82)),
                40..=47 => style.colours[1] = Some(Colour::Named(code - 40)),
                100..=107 => style.colours[1] = Some(Colour::Named(code - 92)),
                38 | 48 => style.colours[usize::from(code == 48)] = extended(&mut codes),
                39 => style.colours[0] = None,
                49 => style.colours[1] = None,
                _ => {}
            }
        }
        self.set(style);
    }
}

/// One of 256 colours, or of all of them.
fn extended(codes: &mut impl Iterator<Item = u16>) -> Option<Colour> {
    match codes.next()? {
        5 => Some(match codes.next()? {
            named @ 0..=15 => Colour::Named(named),
            cube @ 16..=231 => {
                let level = |step: u16| if step == 0 { 0 } else { 55 + 40 * step };
                let cube = cube - 16;
                Colour::Exact(level(cube / 36), level(cube / 6 % 6), level(cube % 6))
            }
            grey => {
                let level = 8 + 10 * grey.min(255).saturating_sub(232);
                Colour::Exact(level, level, level)
            }
        }),
        2 => Some(Colour::Exact(codes.next()?.min(255), codes.next()?.min(255), codes.next()?.min(255))),
        _ => None,
    }
}

const KEYWORDS: &str = " False None True and as assert async await break class continue def del elif else except finally for from \
    global if import in is lambda match nonlocal not or pass raise return try while with yield ";
const BUILTINS: &str = " abs all any bool bytes callable dict dir enumerate eval exec filter float format frozenset getattr \
    hasattr hash id input int isinstance issubclass iter len list map max min next object open print property range repr \
    reversed round self set setattr slice sorted staticmethod str sum super tuple type vars zip ";

/// Python with its strings, numbers, comments, keywords and decorators told apart. A light look: it is no parser.
#[must_use]
pub(crate) fn python(code: &str) -> String {
    let mut page = String::with_capacity(code.len() * 2);
    let mut rest = code;
    let mut fresh = true;
    let mut after = "";
    while let Some(first) = rest.chars().next() {
        let (length, class) = token(rest, first, fresh, after);
        let (text, left) = rest.split_at(length);
        if class.is_empty() {
            page.push_str(&escape(text));
        } else {
            let _ = write!(page, "<span class=\"{class}\">{}</span>", escape(text));
        }
        if !text.trim().is_empty() {
            after = text;
        }
        fresh = text.ends_with('\n') || (fresh && text.trim().is_empty());
        rest = left;
    }
    page
}

/// Length and class of the next token; `fresh`: nothing stands before it in its line.
fn token(rest: &str, first: char, fresh: bool, after: &str) -> (usize, &'static str) {
    let line = rest.find('\n').unwrap_or(rest.len());
    if first == '#' || (fresh && matches!(first, '%' | '!')) {
        return (line, if first == '#' { "hc" } else { "hm" });
    }
    if fresh && first == '@' {
        let end = rest[1..].find(|letter: char| !letter.is_alphanumeric() && !"_.".contains(letter));
        return (end.map_or(rest.len(), |end| end + 1), "hd");
    }
    if let Some(length) = string(rest) {
        return (length, "hs");
    }
    let word = |rest: &str| rest.find(|letter: char| !letter.is_alphanumeric() && letter != '_').unwrap_or(rest.len());
    if first.is_ascii_digit() {
        let end = rest.find(|letter: char| !letter.is_ascii_alphanumeric() && !"._".contains(letter));
        return (end.unwrap_or(rest.len()), "hn");
    }
    if first.is_alphabetic() || first == '_' {
        let length = word(rest);
        let name = &rest[..length];
        let listed = |list: &str| list.contains(&format!(" {name} "));
        return match after {
            "def" | "class" => (length, "hf"),
            "." => (length, ""),
            _ if listed(KEYWORDS) => (length, "hk"),
            _ if listed(BUILTINS) => (length, "hb"),
            _ => (length, ""),
        };
    }
    (first.len_utf8(), "")
}

/// Length of the string that begins here, prefix and quotes included.
fn string(rest: &str) -> Option<usize> {
    let prefix = rest.bytes().take_while(|byte| b"rRbBfFuUtT".contains(byte)).count();
    let quote = rest[prefix..].chars().next().filter(|quote| matches!(quote, '"' | '\'') && prefix <= 2)?;
    let triple: String = std::iter::repeat_n(quote, 3).collect();
    let is_triple = rest[prefix..].starts_with(&triple);
    let end = if is_triple { triple.as_str() } else { &triple[..1] };
    let mut at = prefix + end.len();
    while at < rest.len() {
        let left = &rest[at..];
        if left.starts_with(end) {
            return Some(at + end.len());
        }
        match left.chars().next() {
            Some('\\') => at += 1 + left[1..].chars().next().map_or(0, char::len_utf8),
            // It was never ended.
            Some('\n') if !is_triple => return Some(at),
            Some(letter) => at += letter.len_utf8(),
            None => break,
        }
    }
    Some(rest.len())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn python_is_told_apart() {
        let page = python(
            "@cached\ndef f(x):\n    '''a \"doc\"'''\n    return x.print + 1.5e3  # done\n%matplotlib inline\nprint(f'{x}\\'')",
        );
        for part in [
            "<span class=\"hd\">@cached</span>",
            "<span class=\"hk\">def</span> <span class=\"hf\">f</span>",
            "<span class=\"hs\">&#39;&#39;&#39;a &quot;doc&quot;&#39;&#39;&#39;</span>",
            "x.print + <span class=\"hn\">1.5e3</span>",
            "<span class=\"hc\"># done</span>",
            "<span class=\"hm\">%matplotlib inline</span>",
            "<span class=\"hb\">print</span>(<span class=\"hs\">f&#39;{x}\\&#39;&#39;</span>)",
        ] {
            assert!(page.contains(part), "{part} in {page}");
        }
    }

    #[test]
    fn colours_become_classes() {
        assert_eq!(ansi("\u{1b}[1;31mred\u{1b}[0m <b>"), "<span class=\"ab ac1\">red</span> &lt;b&gt;");
        assert_eq!(ansi("\u{1b}[38;5;196mx\u{1b}[39my"), "<span class=\"\" style=\"color:rgb(255,0,0);\">x</span>y");
        assert_eq!(ansi("\u{1b}]8;;http://x\u{7}link\u{1b}[2K"), "link");
        assert_eq!(ansi("\u{1b}[38;2;1;2;3;44mx"), "<span class=\"ab4\" style=\"color:rgb(1,2,3);\">x</span>");
    }

    #[test]
    fn markdown_is_rendered_and_its_html_is_text() {
        let page = markdown(
            "# Title\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\nwords <script>alert(1)</script>[x](javascript:alert(1)) \
            <img src=x onerror=alert(1)> <b>raw</b> ![p](attachment:p.png) [d](data:text/html,x)",
            |name| (name == "p.png").then(|| "data:image/png;base64,AAAA".to_owned()),
        );
        assert!(
            page.contains("<h1>Title</h1>") && page.contains("<td>1</td>") && page.contains("&lt;b&gt;raw"),
            "{page}"
        );
        assert!(page.contains("data:image/png;base64,AAAA"), "{page}");
        let code = markdown("```python\ndef f(): return '<b>'\n```\n\n```\ndef f\n```\n", |_| None);
        assert!(code.contains("<span class=\"hk\">def</span>") && code.contains("&lt;b&gt;"), "{code}");
        assert_eq!(code.matches("<span class=\"hk\">def").count(), 1, "only what is said to be Python: {code}");
        for evil in ["<script", "javascript:", "<img src=x", "data:text"] {
            assert!(!page.contains(evil), "{evil} in {page}");
        }
    }

    proptest! {
        #[test]
        fn nothing_of_a_text_becomes_markup(text in "\\PC{0,60}", parts in proptest::collection::vec(
            prop_oneof![Just("<script>"), Just("\u{1b}[31m"), Just("'"), Just("\"\"\""), Just("\\"), Just("\n"), Just("#"), Just("f'")], 0..20)) {
            let text = text + &parts.concat();
            for page in [python(&text), ansi(&text)] {
                let bare = page.replace("</span>", "");
                prop_assert!(!bare.replace("<span class=", "").contains('<'), "{}", page);
            }
        }
    }
}
