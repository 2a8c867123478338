//! Longest prefixes among many: a look per length that occurs, instead of one per prefix.

use ipnet::IpNet;
use std::collections::HashMap;
use std::net::IpAddr;

/// Values by prefix, of both families.
#[derive(Clone, Debug)]
pub struct Prefixes<V> {
    by_net: HashMap<IpNet, V>,
    /// Lengths that occur, the longest first: of IPv4, of IPv6.
    lengths: [Vec<u8>; 2],
}

impl<V> Default for Prefixes<V> {
    fn default() -> Self {
        Self { by_net: HashMap::new(), lengths: [Vec::new(), Vec::new()] }
    }
}

impl<V> FromIterator<(IpNet, V)> for Prefixes<V> {
    /// Of equal prefixes the last one stays.
    fn from_iter<I: IntoIterator<Item = (IpNet, V)>>(values: I) -> Self {
        let mut prefixes = Self::default();
        prefixes.by_net.extend(values.into_iter().map(|(net, value)| (net.trunc(), value)));
        for net in prefixes.by_net.keys() {
            let lengths = &mut prefixes.lengths[family(net.addr())];
            if !lengths.contains(&net.prefix_len()) {
                lengths.push(net.prefix_len());
            }
        }
        prefixes.lengths.iter_mut().for_each(|lengths| lengths.sort_unstable_by(|a, b| b.cmp(a)));
        prefixes
    }
}

impl<V> Prefixes<V> {
    /// The longest prefix that contains all of `net`.
    pub fn longest(&self, net: IpNet) -> Option<(IpNet, &V)> {
        let lengths = self.lengths[family(net.addr())].iter().filter(|len| **len <= net.prefix_len());
        lengths.copied().find_map(|len| {
            let holding = IpNet::new_assert(net.addr(), len).trunc();
            Some((holding, self.by_net.get(&holding)?))
        })
    }
}

fn family(address: IpAddr) -> usize {
    usize::from(address.is_ipv6())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_prefix_that_holds_a_net_is_found_in_its_family() {
        let nets = ["0.0.0.0/0", "10.0.0.0/8", "10.1.0.0/16", "2001:db8::/32"];
        let prefixes: Prefixes<&str> = nets.iter().map(|net| (net.parse().unwrap(), *net)).collect();
        let longest = |net: &str| prefixes.longest(net.parse().unwrap()).map(|(_, name)| *name);
        assert_eq!(longest("10.1.2.3/32"), Some("10.1.0.0/16"));
        assert_eq!(longest("10.1.0.0/16"), Some("10.1.0.0/16"));
        assert_eq!(longest("10.0.0.0/12"), Some("10.0.0.0/8"));
        assert_eq!(longest("192.0.2.1/32"), Some("0.0.0.0/0"));
        assert_eq!(longest("2001:db8::1/128"), Some("2001:db8::/32"));
        assert_eq!(longest("2001:db9::1/128"), None);
    }
}
