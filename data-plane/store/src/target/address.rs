//! Which addresses are public: globally routable unicast, by the IANA special-purpose registries.
//!
//! Sources: RFC 6890 with its updates, and the IANA IPv4 and IPv6 Special-Purpose Address Registries, read as
//! "refuse unless it is plainly a public server". Of IPv6 only 2000::/3 is global unicast (RFC 4291 §2.4), and
//! within it the special blocks are refused. An address that carries an IPv4 address is judged by that one: mapped
//! (`::ffff:0:0/96`) and NAT64 (`64:ff9b::/96`, what DNS64 answers). Carriers that no server of today is reached
//! through (IPv4-compatible, local NAT64, 6to4, Teredo) are refused as they are, whatever they carry.
//!
//! The addresses of cloud platforms are named on their own: one of them (168.63.129.16) is public, and they stay
//! refused where an operator has allowed the block around them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The rule that refuses an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AddressRule {
    /// 0.0.0.0/8 and `::`.
    Unspecified,
    /// This host.
    Loopback,
    /// RFC 1918, RFC 6598 and RFC 4193.
    Private,
    /// 169.254.0.0/16 and fe80::/10.
    LinkLocal,
    /// 224.0.0.0/4, ff00::/8 and the broadcast address.
    Multicast,
    /// Examples in documents, and benchmarks.
    Documentation,
    /// An IPv4 address inside IPv6 in a form that nothing on the public internet uses.
    Transition,
    /// Any other block that the registries set aside.
    Reserved,
    /// A cloud's metadata service or another address of its platform.
    Platform,
    /// In `--deny-target`.
    Denied,
}

impl std::fmt::Display for AddressRule {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            AddressRule::Unspecified => "unspecified",
            AddressRule::Loopback => "loopback",
            AddressRule::Private => "private",
            AddressRule::LinkLocal => "link-local",
            AddressRule::Multicast => "multicast and broadcast",
            AddressRule::Documentation => "documentation and benchmark",
            AddressRule::Transition => "IPv6 transition",
            AddressRule::Reserved => "reserved",
            AddressRule::Platform => "cloud platform",
            AddressRule::Denied => "denied",
        })
    }
}

/// Blocks of IPv4 that hold no public server: address, prefix length, rule.
const SPECIAL_V4: &[(Ipv4Addr, u8, AddressRule)] = &[
    (Ipv4Addr::new(0, 0, 0, 0), 8, AddressRule::Unspecified),
    (Ipv4Addr::new(10, 0, 0, 0), 8, AddressRule::Private),
    (Ipv4Addr::new(100, 64, 0, 0), 10, AddressRule::Private),
    (Ipv4Addr::new(127, 0, 0, 0), 8, AddressRule::Loopback),
    (Ipv4Addr::new(169, 254, 0, 0), 16, AddressRule::LinkLocal),
    (Ipv4Addr::new(172, 16, 0, 0), 12, AddressRule::Private),
    (Ipv4Addr::new(192, 0, 0, 0), 24, AddressRule::Reserved),
    (Ipv4Addr::new(192, 0, 2, 0), 24, AddressRule::Documentation),
    (Ipv4Addr::new(192, 31, 196, 0), 24, AddressRule::Reserved), // AS112
    (Ipv4Addr::new(192, 52, 193, 0), 24, AddressRule::Reserved), // AMT relays
    (Ipv4Addr::new(192, 88, 99, 0), 24, AddressRule::Reserved),  // 6to4 relays, withdrawn
    (Ipv4Addr::new(192, 168, 0, 0), 16, AddressRule::Private),
    (Ipv4Addr::new(192, 175, 48, 0), 24, AddressRule::Reserved), // AS112
    (Ipv4Addr::new(198, 18, 0, 0), 15, AddressRule::Documentation),
    (Ipv4Addr::new(198, 51, 100, 0), 24, AddressRule::Documentation),
    (Ipv4Addr::new(203, 0, 113, 0), 24, AddressRule::Documentation),
    (Ipv4Addr::new(224, 0, 0, 0), 4, AddressRule::Multicast),
    (Ipv4Addr::new(255, 255, 255, 255), 32, AddressRule::Multicast),
    (Ipv4Addr::new(240, 0, 0, 0), 4, AddressRule::Reserved),
];

/// Blocks of IPv6 with a rule of their own. What is in none of them and not in 2000::/3 is reserved.
const SPECIAL_V6: &[(Ipv6Addr, u8, AddressRule)] = &[
    (Ipv6Addr::UNSPECIFIED, 128, AddressRule::Unspecified),
    (Ipv6Addr::LOCALHOST, 128, AddressRule::Loopback),
    (Ipv6Addr::UNSPECIFIED, 96, AddressRule::Transition), // IPv4-compatible
    (
        Ipv6Addr::new(0x64, 0xff9b, 1, 0, 0, 0, 0, 0),
        48,
        AddressRule::Transition,
    ), // local NAT64
    (
        Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0),
        32,
        AddressRule::Transition,
    ), // Teredo
    (
        Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0),
        23,
        AddressRule::Reserved,
    ), // protocol assignments
    (
        Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0),
        32,
        AddressRule::Documentation,
    ),
    (
        Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0),
        16,
        AddressRule::Transition,
    ), // 6to4
    (
        Ipv6Addr::new(0x2620, 0x4f, 0x8000, 0, 0, 0, 0, 0),
        48,
        AddressRule::Reserved,
    ), // AS112
    (
        Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0),
        20,
        AddressRule::Documentation,
    ),
    (
        Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0),
        7,
        AddressRule::Private,
    ),
    (
        Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0),
        10,
        AddressRule::LinkLocal,
    ),
    (
        Ipv6Addr::new(0xfec0, 0, 0, 0, 0, 0, 0, 0),
        10,
        AddressRule::Private,
    ), // site-local, withdrawn
    (
        Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0),
        8,
        AddressRule::Multicast,
    ),
];

/// Addresses at which clouds serve metadata, credentials or the machine's agent.
const PLATFORM: &[IpAddr] = &[
    IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)), // EC2, GCE, Azure, DigitalOcean, Hetzner …
    IpAddr::V4(Ipv4Addr::new(169, 254, 169, 253)), // EC2's name server
    IpAddr::V4(Ipv4Addr::new(169, 254, 169, 123)), // EC2's clock
    IpAddr::V4(Ipv4Addr::new(169, 254, 170, 2)),   // ECS task credentials
    IpAddr::V4(Ipv4Addr::new(169, 254, 170, 23)),  // EKS pod identity
    IpAddr::V4(Ipv4Addr::new(169, 254, 42, 42)),   // Scaleway
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),   // Azure's wire server: a public address
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)), // Alibaba
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),     // Oracle
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)), // EC2
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x253)), // EC2's name server
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23)), // EKS pod identity
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)), // GCE
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42)), // Scaleway
];

/// The IPv4 address that an address stands for, if it does: mapped, or behind the well-known NAT64 prefix.
pub(super) fn embedded_v4(address: IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(address) => match address.segments() {
            [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
                Some(Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)))
            }
            _ => address.to_ipv4_mapped(),
        },
    }
}

/// Whether the address belongs to a cloud's platform, in any form.
pub(super) fn is_platform(address: IpAddr) -> bool {
    PLATFORM.contains(&address) || embedded_v4(address).is_some_and(|v4| PLATFORM.contains(&IpAddr::V4(v4)))
}

/// The rule by which an address is not public; `None` for a public one. Knows no platform addresses.
pub(super) fn not_public(address: IpAddr) -> Option<AddressRule> {
    if let Some(v4) = embedded_v4(address) {
        return special_v4(v4);
    }
    match address {
        IpAddr::V4(v4) => special_v4(v4),
        IpAddr::V6(v6) => special_v6(v6),
    }
}

fn special_v4(address: Ipv4Addr) -> Option<AddressRule> {
    let bits = address.to_bits();
    SPECIAL_V4
        .iter()
        .find(|(block, length, _)| (bits ^ block.to_bits()).leading_zeros() >= u32::from(*length))
        .map(|(_, _, rule)| *rule)
}

fn special_v6(address: Ipv6Addr) -> Option<AddressRule> {
    let bits = address.to_bits();
    let special = SPECIAL_V6
        .iter()
        .find(|(block, length, _)| (bits ^ block.to_bits()).leading_zeros() >= u32::from(*length))
        .map(|(_, _, rule)| *rule);
    let global_unicast = bits >> 125 == 0b001;
    special.or((!global_unicast).then_some(AddressRule::Reserved))
}
