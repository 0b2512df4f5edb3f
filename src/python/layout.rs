//! A virtual environment before anything is installed in it: the same on every machine, for it names
//! nothing but places of the image.

use super::interpreter::Interpreter;
use crate::path::{LayerPath, PathError};

/// One path of an environment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    pub path: LayerPath,
    pub kind: ItemKind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ItemKind {
    Dir,
    Link(String),
    /// Text and mode.
    File(String, u32),
}

/// The environment at `prefix`.
pub fn venv(prefix: &LayerPath, interpreter: &Interpreter) -> Result<Vec<Item>, PathError> {
    let called = interpreter.called();
    let file = |text: String| ItemKind::File(text, 0o644);
    let link = |target: &str| ItemKind::Link(target.to_owned());
    let packages = format!("lib/{called}/site-packages");
    let versioned = format!("bin/{called}");
    let place = prefix.to_string();
    let items = [
        ("", ItemKind::Dir),
        ("bin", ItemKind::Dir),
        (&*packages, ItemKind::Dir),
        // whatever commits the directory around it leaves an environment alone
        (".gitignore", file("*".to_owned())),
        ("CACHEDIR.TAG", file("Signature: 8a477f597d28d172789f06886806bc55".to_owned())),
        ("pyvenv.cfg", file(config(interpreter))),
        ("lib64", link("lib")),
        ("bin/python", link(&interpreter.program.to_string())),
        ("bin/python3", link("python")),
        (&*versioned, link("python")),
        ("bin/activate", file(for_sh(&place))),
        ("bin/activate.csh", file(for_csh(&place))),
        ("bin/activate.fish", file(for_fish(&place))),
    ];
    let item = |(below, kind): (&str, ItemKind)| {
        let path = prefix.join(below.as_bytes())?;
        Ok(Item { path, kind })
    };
    items.into_iter().map(item).collect()
}

fn config(interpreter: &Interpreter) -> String {
    let home = interpreter.program.parent().unwrap_or_default();
    format!(
        "home = {home}\nimplementation = CPython\nversion_info = {}\ninclude-system-site-packages = false\n",
        interpreter.full_version
    )
}

fn for_sh(place: &str) -> String {
    format!(
        r#"# for sh, bash and zsh: `. {place}/bin/activate`; `deactivate` goes back

deactivate () {{
    if [ -n "${{_SBX_OLD_PATH+x}}" ]; then PATH="$_SBX_OLD_PATH"; export PATH; unset _SBX_OLD_PATH; fi
    if [ -n "${{_SBX_OLD_HOME+x}}" ]; then PYTHONHOME="$_SBX_OLD_HOME"; export PYTHONHOME; unset _SBX_OLD_HOME; fi
    if [ -n "${{_SBX_OLD_PS1+x}}" ]; then PS1="$_SBX_OLD_PS1"; unset _SBX_OLD_PS1; fi
    hash -r 2>/dev/null || :
    unset VIRTUAL_ENV VIRTUAL_ENV_PROMPT
    [ "${{1:-}}" = keep ] || unset -f deactivate
}}

deactivate keep
VIRTUAL_ENV='{place}'
VIRTUAL_ENV_PROMPT="${{VIRTUAL_ENV##*/}}"
export VIRTUAL_ENV VIRTUAL_ENV_PROMPT
_SBX_OLD_PATH="$PATH"
PATH="$VIRTUAL_ENV/bin:$PATH"
export PATH
if [ -n "${{PYTHONHOME+x}}" ]; then _SBX_OLD_HOME="$PYTHONHOME"; unset PYTHONHOME; fi
if [ -z "${{VIRTUAL_ENV_DISABLE_PROMPT:-}}" ]; then
    _SBX_OLD_PS1="${{PS1:-}}"
    PS1="($VIRTUAL_ENV_PROMPT) ${{PS1:-}}"
fi
hash -r 2>/dev/null || :
"#
    )
}

fn for_csh(place: &str) -> String {
    format!(
        r#"# for csh and tcsh: `source {place}/bin/activate.csh`; `deactivate` goes back

alias deactivate 'if ($?_SBX_OLD_PATH) setenv PATH "$_SBX_OLD_PATH"; unset _SBX_OLD_PATH; unsetenv VIRTUAL_ENV; rehash; unalias deactivate'
setenv VIRTUAL_ENV '{place}'
set _SBX_OLD_PATH="$PATH"
setenv PATH "$VIRTUAL_ENV/bin:$PATH"
rehash
"#
    )
}

fn for_fish(place: &str) -> String {
    format!(
        r#"# for fish: `source {place}/bin/activate.fish`; `deactivate` goes back

function deactivate
    if set -q _SBX_OLD_PATH
        set -gx PATH $_SBX_OLD_PATH
        set -e _SBX_OLD_PATH
    end
    set -e VIRTUAL_ENV
    test "$argv[1]" = keep; or functions -e deactivate
end

deactivate keep
set -gx VIRTUAL_ENV '{place}'
set -gx _SBX_OLD_PATH $PATH
set -gx PATH "$VIRTUAL_ENV/bin" $PATH
"#
    )
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::platform::Platform;

    #[test]
    fn an_environment_is_activated_and_left_again() {
        let interpreter = Interpreter {
            version: (3, 13),
            full_version: "3.13.5".into(),
            program: LayerPath::parse_absolute("/usr/bin/python3.13").unwrap(),
            platform: Platform::Amd64,
            glibc: (2, 41),
        };
        let home = tempfile::tempdir().unwrap();
        let prefix = LayerPath::parse_absolute("/opt/venv").unwrap();
        let items = venv(&prefix, &interpreter).unwrap();
        let activate = items.iter().find(|item| item.path.file_name() == b"activate").unwrap();
        let ItemKind::File(text, 0o644) = &activate.kind else { panic!("{activate:?}") };
        let script = home.path().join("activate");
        std::fs::write(&script, text).unwrap();
        let said = "set -eu; PATH=/bin:/usr/bin; . ./activate; echo $PATH $VIRTUAL_ENV; deactivate; \
                    echo $PATH ${VIRTUAL_ENV-none}; . ./activate; . ./activate; deactivate; echo $PATH";
        for shell in ["sh", "bash"] {
            let output =
                Command::new(shell).args(["-c", said]).current_dir(home.path()).output().unwrap();
            assert_eq!(
                String::from_utf8_lossy(&output.stdout),
                "/opt/venv/bin:/bin:/usr/bin /opt/venv\n/bin:/usr/bin none\n/bin:/usr/bin\n",
                "{output:?}"
            );
        }
    }
}
