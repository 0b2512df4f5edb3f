//! Words of others, before a terminal gets them.
//!
//! Names, media types and refusals come from registries and archives, and end up in messages. A terminal
//! obeys some of what may stand in them, and a line break makes a line of ours out of one of theirs.

/// How messages of ours begin.
const BEGINNINGS: [&str; 4] = ["error:", "help:", "note:", "again:"];
/// Characters of somebody else's that are shown.
const LONGEST: usize = 200;

/// A text as one short line, without what moves a cursor, colours a line or turns its direction.
pub fn plain(text: &str) -> String {
    let cleaned: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let words: Vec<&str> = cleaned.split_whitespace().collect();
    words.join(" ").chars().filter(|c| !turns(*c)).take(LONGEST).collect()
}

/// A text of ours, of any length, whatever got into it: its lines stay, but for those that would pass for
/// the first one of another message.
pub fn tame(text: &str) -> String {
    let shown = |c: &char| *c == '\n' || *c == '\t' || !(c.is_control() || turns(*c));
    let tamed: String = text.chars().filter(shown).collect();
    let indent =
        |text: String, begun: &&str| text.replace(&format!("\n{begun}"), &format!("\n  {begun}"));
    BEGINNINGS.iter().fold(tamed, indent)
}

/// What is not seen, and changes what is: how a line runs, where it ends.
fn turns(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_say_is_one_short_line_that_moves_no_cursor() {
        assert_eq!(plain("\u{1b}[2Ja\r\nerror: b\u{202e}c\u{7}"), "[2Ja error: bc");
        assert_eq!(plain(&"ä".repeat(1000)).chars().count(), LONGEST);
    }

    #[test]
    fn lines_of_ours_stay_what_they_are() {
        assert_eq!(tame("a\n\tb: `\u{9b}2J\u{1b}[31mc`\u{202e}"), "a\n\tb: `2J[31mc`");
    }

    #[test]
    fn a_line_of_theirs_is_none_of_ours() {
        assert_eq!(tame("error: a\nerror: b\nc"), "error: a\n  error: b\nc");
    }
}
