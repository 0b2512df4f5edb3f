//! Tags: which interpreter, ABI and platform a wheel is for (PEP 425), with the names that stand for
//! versions of the C library (PEP 513, 571, 599, 600).

/// One combination that a wheel is for, or that an interpreter takes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tag {
    pub python: Box<str>,
    pub abi: Box<str>,
    pub platform: Box<str>,
}

impl Tag {
    /// Whether any Python 3 on any machine can use it.
    pub fn is_pure(&self) -> bool {
        self.python.starts_with("py3") && &*self.abi == "none" && &*self.platform == "any"
    }

    pub fn new(python: &str, abi: &str, platform: &str) -> Self {
        Tag { python: python.into(), abi: abi.into(), platform: platform.into() }
    }
}

/// The oldest C library that platforms are named for.
const OLDEST_X86: u16 = 5;
const OLDEST: u16 = 17;

/// Platforms of a machine with a GNU C library, the newest first. `musllinux` (PEP 656) is for
/// another C library and never among them.
fn platforms(glibc: (u16, u16), machine: &str) -> Vec<String> {
    let x86 = machine == "x86_64";
    let oldest = if x86 { OLDEST_X86 } else { OLDEST };
    let mut names = Vec::new();
    if glibc.0 == 2 {
        for minor in (oldest..=glibc.1).rev() {
            names.push(format!("manylinux_2_{minor}_{machine}"));
            match minor {
                17 => names.push(format!("manylinux2014_{machine}")),
                12 if x86 => names.push(format!("manylinux2010_{machine}")),
                5 if x86 => names.push(format!("manylinux1_{machine}")),
                _ => {}
            }
        }
    }
    names.push(format!("linux_{machine}"));
    names
}

/// Tags that CPython takes, the best first: its own ABI, then the stable ABI of its and every older
/// version, then pure Python, each for the newest platform first.
pub(super) fn supported(version: (u16, u16), glibc: (u16, u16), machine: &str) -> Vec<Tag> {
    let (major, minor) = version;
    let platforms = platforms(glibc, machine);
    let own = format!("cp{major}{minor}");
    let mut tags = Vec::new();
    let mut all = |python: &str, abi: &str| {
        tags.extend(platforms.iter().map(|platform| Tag::new(python, abi, platform)));
    };
    all(&own, &own);
    all(&own, "abi3");
    all(&own, "none");
    // the stable ABI begins with 3.2 (PEP 384)
    for older in (2..minor).rev() {
        all(&format!("cp{major}{older}"), "abi3");
    }
    let generic = |older: u16| format!("py{major}{older}");
    let pythons: Vec<String> = std::iter::once(generic(minor))
        .chain([format!("py{major}")])
        .chain((0..minor).rev().map(generic))
        .collect();
    for python in &pythons {
        all(python, "none");
    }
    tags.push(Tag::new(&own, "none", "any"));
    tags.extend(pythons.iter().map(|python| Tag::new(python, "none", "any")));
    tags
}

#[cfg(test)]
mod tests {
    use crate::path::LayerPath;
    use crate::platform::Platform;
    use crate::python::{Interpreter, WheelName};

    fn trixie(platform: Platform) -> Interpreter {
        Interpreter {
            version: (3, 13),
            full_version: "3.13.5".into(),
            program: LayerPath::parse_absolute("/usr/bin/python3.13").unwrap(),
            platform,
            glibc: (2, 41),
        }
    }

    fn fits(tags: &str) -> Option<usize> {
        let name: WheelName = format!("a-1-{tags}.whl").parse().unwrap();
        trixie(Platform::Amd64).rank(&name)
    }

    #[test]
    fn wheels_for_this_interpreter_fit() {
        for tags in [
            "cp313-cp313-manylinux_2_41_x86_64",
            "cp313-cp313-manylinux_2_17_x86_64.manylinux2014_x86_64",
            "cp37-abi3-manylinux1_x86_64",
            "py3-none-manylinux2010_x86_64",
            "py2.py3-none-any",
            "py312-none-any",
            "cp313-none-any",
            "cp313-cp313-linux_x86_64",
        ] {
            assert!(fits(tags).is_some(), "{tags}");
        }
    }

    #[test]
    fn wheels_for_another_python_or_platform_do_not() {
        for tags in [
            "cp312-cp312-manylinux_2_17_x86_64",
            "cp313-cp313t-manylinux_2_17_x86_64",
            "cp314-abi3-manylinux_2_17_x86_64",
            "cp313-cp313-manylinux_2_42_x86_64",
            "cp313-cp313-manylinux_2_17_aarch64",
            "cp313-cp313-musllinux_1_2_x86_64",
            "cp313-cp313-macosx_11_0_arm64",
            "cp313-cp313-win_amd64",
            "py2-none-any",
            "py314-none-any",
            "pp310-pypy310_pp73-manylinux_2_17_x86_64",
        ] {
            assert_eq!(fits(tags), None, "{tags}");
        }
        let arm: WheelName = "a-1-cp313-cp313-manylinux2010_aarch64.whl".parse().unwrap();
        assert_eq!(trixie(Platform::Arm64).rank(&arm), None, "older than the platform");
    }

    #[test]
    fn the_closest_wheel_is_the_best() {
        let order = [
            "cp313-cp313-manylinux_2_28_x86_64",
            "cp313-cp313-manylinux_2_17_x86_64.manylinux2014_x86_64",
            "cp313-abi3-manylinux_2_17_x86_64",
            "cp39-abi3-manylinux_2_17_x86_64",
            "py3-none-manylinux_2_17_x86_64",
            "py3-none-any",
        ];
        let ranks: Vec<usize> = order.iter().map(|tags| fits(tags).unwrap()).collect();
        assert!(ranks.is_sorted(), "{ranks:?}");
    }
}
