//! What kind of device a browser's user agent speaks of: mobile, tablet, desktop or television.
//!
//! It leaves names (iPhone, iOS) to uap-core. Invariant: an unclear text gives `None`, never a guess.

/// A kind of device, as payloads name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DeviceType {
    /// A phone.
    Mobile,
    /// A tablet.
    Tablet,
    /// A desktop or laptop computer.
    Desktop,
    /// A television or its box.
    Tv,
    /// No device of a person's.
    Bot,
}

impl DeviceType {
    /// As in payloads.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Mobile => "mobile",
            Self::Tablet => "tablet",
            Self::Desktop => "desktop",
            Self::Tv => "tv",
            Self::Bot => "bot",
        }
    }
}

/// Words that only televisions and their boxes say.
const TELEVISIONS: &[&str] = &[
    "smart-tv",
    "smarttv",
    "smart tv",
    "googletv",
    "google tv",
    "android tv",
    "apple tv",
    "appletv",
    "hbbtv",
    "web0s",
    "netcast",
    "bravia",
    "viera",
    "aquosbrowser",
    "roku/",
    "crkey",
    "aftb",
    "aftm",
    "afts",
    "aftt",
    "firetv",
    "tizen tv",
    "; tv;",
    "dtv",
];

/// Words of tablets, besides an Android without "Mobile".
const TABLETS: &[&str] = &[
    "ipad", "tablet", "playbook", "kindle", "nexus 7", "nexus 9", "nexus 10",
];

/// Words of phones.
const MOBILES: &[&str] = &[
    "iphone",
    "ipod",
    "windows phone",
    "iemobile",
    "blackberry",
    "bb10",
    "kaios",
    "opera mini",
    "opera mobi",
    "webos/",
    "symbian",
    "series60",
    "mobile",
];

/// Words of desktop systems.
const DESKTOPS: &[&str] = &[
    "windows nt",
    "macintosh",
    "cros ",
    "x11;",
    "linux x86_64",
    "linux i686",
    "freebsd",
];

/// The device type of a user agent in ASCII lower case that nothing marks as a bot.
pub(super) fn device_type(lower: &str) -> Option<DeviceType> {
    let says = |words: &[&str]| words.iter().any(|word| lower.contains(word));
    if says(TELEVISIONS) {
        return Some(DeviceType::Tv);
    }
    // Windows says "Tablet PC" on any machine with a pen or a touch screen.
    if says(TABLETS) && !lower.contains("tablet pc") {
        return Some(DeviceType::Tablet);
    }
    if lower.contains("android") {
        // Google's rule: a phone says "Mobile", a tablet does not.
        let phone = lower.contains("mobile") || lower.contains("opera m");
        return Some(if phone {
            DeviceType::Mobile
        } else {
            DeviceType::Tablet
        });
    }
    if says(MOBILES) {
        return Some(DeviceType::Mobile);
    }
    says(DESKTOPS).then_some(DeviceType::Desktop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_types_follow_the_user_agent() {
        let cases = [
            (
                "Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) Mobile/15E148 Safari/604.1",
                Some(DeviceType::Mobile),
            ),
            (
                "Mozilla/5.0 (iPad; CPU OS 16_6 like Mac OS X) Mobile/15E148 Safari/604.1",
                Some(DeviceType::Tablet),
            ),
            (
                "Mozilla/5.0 (Linux; Android 10; K) Chrome/140.0.0.0 Mobile Safari/537.36",
                Some(DeviceType::Mobile),
            ),
            (
                "Mozilla/5.0 (Linux; Android 14; SM-X710) Chrome/140.0.0.0 Safari/537.36",
                Some(DeviceType::Tablet),
            ),
            (
                "Mozilla/5.0 (Windows NT 10.0; Win64; x64) Chrome/140.0.0.0 Safari/537.36",
                Some(DeviceType::Desktop),
            ),
            (
                "Mozilla/5.0 (Windows NT 6.1; Trident/7.0; Tablet PC 2.0; rv:11.0)",
                Some(DeviceType::Desktop),
            ),
            (
                "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) Safari/605.1.15",
                Some(DeviceType::Desktop),
            ),
            (
                "Mozilla/5.0 (X11; CrOS x86_64 14541.0.0) Chrome/140.0.0.0",
                Some(DeviceType::Desktop),
            ),
            (
                "Mozilla/5.0 (SMART-TV; Linux; Tizen 6.0) TV Safari/537.36",
                Some(DeviceType::Tv),
            ),
            (
                "Mozilla/5.0 (Linux; Android 9; AFTMM) Chrome/98 Mobile Safari/537.36",
                Some(DeviceType::Tv),
            ),
            ("something else", None),
            ("", None),
        ];
        for (user_agent, expected) in cases {
            assert_eq!(
                device_type(&user_agent.to_ascii_lowercase()),
                expected,
                "{user_agent}"
            );
        }
    }
}
