//! Checks in the form that CI systems read.

use std::fmt::Write;

use super::{Trial, Verdict};

/// One suite, a case for each check.
pub fn junit(trial: &Trial, sandbox: &str) -> String {
    let checks = trial.checks();
    let seconds: f64 = checks.iter().map(|check| check.seconds).sum();
    let mut text = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuite name=\"{}\" tests=\"{}\" failures=\"{}\" skipped=\"{}\" time=\"{seconds:.3}\">\n",
        escaped(sandbox),
        checks.len(),
        trial.count(Verdict::Failed),
        trial.count(Verdict::LeftOut),
    );
    for check in checks {
        let (sandbox, group, name) = (escaped(sandbox), check.group, escaped(&check.name));
        let seen = escaped(&check.seen);
        let body = match check.verdict {
            Verdict::Passed => format!("<system-out>{seen}</system-out>"),
            Verdict::Failed => format!("<failure message=\"{seen}\"/>"),
            Verdict::LeftOut => format!("<skipped message=\"{seen}\"/>"),
        };
        let seconds = check.seconds;
        writeln!(
            text,
            "  <testcase classname=\"{sandbox}.{group}\" name=\"{name}\" time=\"{seconds:.3}\">{body}</testcase>"
        )
        .expect("a text takes everything");
    }
    text + "</testsuite>\n"
}

/// Without what XML cannot have.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            c if c.is_control() => out.push(' '),
            '\u{fffe}' | '\u{ffff}' => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}
