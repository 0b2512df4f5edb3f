//! Package sets of Debian's own, as people install them.

/// Packages that are asked for together.
pub struct Set {
    pub name: &'static str,
    /// Separated by spaces.
    pub packages: &'static str,
    pub recommends: bool,
}

const fn set(name: &'static str, packages: &'static str) -> Set {
    Set { name, packages, recommends: false }
}

const fn with_recommends(name: &'static str, packages: &'static str) -> Set {
    Set { name, packages, recommends: true }
}

/// Of names that both releases have.
const COMMON: [Set; 9] = [
    set("desktop", "gnome-core"),
    set("database server", "postgresql postgresql-contrib mariadb-server redis-server"),
    set("java", "default-jdk maven"),
    set("tex", "texlive-latex-base texlive-latex-extra texlive-fonts-recommended latexmk"),
    set("web server", "nginx apache2 libapache2-mod-php php-fpm php-mysql certbot"),
    set("compilers", "build-essential clang gfortran cmake ninja-build gdb"),
    set("multimedia", "ffmpeg vlc gimp audacity"),
    with_recommends("multimedia, recommends", "ffmpeg vlc gimp"),
    with_recommends("desktop, recommends", "xfce4 xfce4-terminal"),
];

const TRIXIE: Set = set(
    "agent sandbox",
    "curl python3 python3-pip python3-venv build-essential libssl-dev git supervisor vim nginx \
     gettext-base xfce4 xfce4-terminal x11vnc xvfb novnc websockify dbus-x11 fonts-wqy-zenhei \
     fonts-wqy-microhei chromium chromium-sandbox libx11-xcb1 libxcomposite1 libxdamage1 libxext6 \
     libxfixes3 libxi6 libxtst6 libnss3 libglib2.0-0t64 libdrm2 libgbm1 libasound2t64 \
     fonts-liberation",
);

const BOOKWORM: Set = set(
    "agent sandbox",
    "curl python3 python3-pip python3-venv build-essential libssl-dev git supervisor vim nginx \
     gettext-base xfce4 xfce4-terminal x11vnc xvfb novnc websockify dbus-x11 fonts-wqy-zenhei \
     fonts-wqy-microhei chromium chromium-sandbox libx11-xcb1 libxcomposite1 libxdamage1 libxext6 \
     libxfixes3 libxi6 libxtst6 libnss3 libglib2.0-0 libdrm2 libgbm1 libasound2 fonts-liberation \
     libu2f-udev",
);

/// All sets of a release.
pub fn sets(codename: &str) -> Vec<Set> {
    let own = if codename == "bookworm" { BOOKWORM } else { TRIXIE };
    COMMON.into_iter().chain([own]).collect()
}

pub fn find(codename: &str, name: &str) -> Set {
    sets(codename).into_iter().find(|set| set.name == name).unwrap()
}
