//! What a plan wants asked: each question to one server and port once, whoever shares it.

use marca_config::model::{Check, CheckPolicy, Forward, Via};
use marca_config::plan::{CheckPlan, Family, Plan, RealPlan, Role, ServicePlan, Standing};
use marca_proto::health::member::Policy;
use marca_tables::ids::real_key;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

/// A question to one server. Equal ones are one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    pub address: IpAddr,
    /// None: straight to the address.
    pub through: Option<Through>,
    pub check: Check,
}

/// The way of clients' packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Through {
    pub vip: IpAddr,
    pub forward: Forward,
}

/// A real server of a service, and what it is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// As [`real_key`] has it.
    pub key: String,
    pub policy: Policy,
    /// As configured.
    pub weight: u16,
    /// The service's checks, which say what ports they speak for.
    pub checks: Arc<[CheckPlan]>,
    /// For each of the checks, in their order: an index into [`Targets::targets`].
    pub targets: Vec<usize>,
}

/// Everything that a plan wants asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Targets {
    pub targets: Vec<Target>,
    /// Real servers without checks are left out.
    pub members: Vec<Member>,
}

impl Targets {
    pub fn of(plan: &Plan) -> Self {
        let mut places: HashMap<Target, usize> = HashMap::new();
        let mut members = Vec::new();
        for service in plan.services.iter().filter(|service| !service.checks.is_empty()) {
            // A sorry server stands in whatever its state, and whom an operator has taken out of service gets nobody.
            let is_asked = |real: &&RealPlan| real.role == Role::Regular && real.standing != Standing::Drained;
            for real in service.reals.iter().filter(is_asked) {
                let address = address(service, real);
                let targets = service.checks.iter().map(|planned| {
                    let target = target(address, real, planned);
                    let place = places.len();
                    *places.entry(target).or_insert(place)
                });
                members.push(Member {
                    targets: targets.collect(),
                    key: real_key(&service.name, service.family, real.address),
                    policy: policy(service.check_policy),
                    weight: real.weight,
                    checks: Arc::clone(&service.checks),
                });
            }
        }
        let mut targets: Vec<(Target, usize)> = places.into_iter().collect();
        targets.sort_unstable_by_key(|(_, place)| *place);
        Self { targets: targets.into_iter().map(|(target, _)| target).collect(), members }
    }
}

/// What a real server is asked. Under fullnat, and if it is the director itself, its clients are the director in any case.
fn target(address: IpAddr, real: &RealPlan, planned: &CheckPlan) -> Target {
    let forward = real.forward;
    let is_alike = matches!(forward, Forward::FullNat | Forward::Local);
    let through = planned.vip.filter(|_| !is_alike).map(|vip| Through { vip, forward });
    let via = if through.is_some() { Via::Vip } else { Via::Server };
    Target { address, through, check: Check { via, ..planned.check.clone() } }
}

/// Where a real server is asked. The director's own sockets listen at the VIP, or anywhere.
fn address(service: &ServicePlan, real: &RealPlan) -> IpAddr {
    let loopback = match service.family {
        Family::V4 => Ipv4Addr::LOCALHOST.into(),
        Family::V6 => Ipv6Addr::LOCALHOST.into(),
    };
    real.address.or(service.vip).unwrap_or(loopback)
}

fn policy(policy: CheckPolicy) -> Policy {
    match policy {
        CheckPolicy::All => Policy::All,
        CheckPolicy::Any => Policy::Any,
        CheckPolicy::PerPort => Policy::PerPort,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn targets(services: &str) -> Targets {
        let text = format!("[router]\noutside = 'eth0'\n{services}");
        Targets::of(&Plan::of(&marca_config::load("marca.toml", &text).unwrap().config).unwrap())
    }

    fn shown(targets: &Targets) -> Vec<String> {
        let shown = |target: &Target| {
            let via = target.through.map_or_else(String::new, |through| format!(" via {}", through.vip));
            format!("{} {}{via}", target.address, target.check)
        };
        targets.targets.iter().map(shown).collect()
    }

    #[test]
    fn equal_questions_to_one_server_are_asked_once() {
        let service = |name: &str, vip: &str, more: &str| {
            format!(
                "[service.{name}]\nvip = '{vip}'\nports = ['tcp/80', 'tcp/443']\n{more}\n\
                 [[service.{name}.server]]\naddress = '10.0.0.11'\n[[service.{name}.server]]\naddress = '10.0.0.12'\n"
            )
        };
        let two = service("a", "192.0.2.10", "") + &service("b", "192.0.2.11", "");
        let both = targets(&two);
        assert_eq!(shown(&both), ["10.0.0.11 tcp/80", "10.0.0.11 tcp/443", "10.0.0.12 tcp/80", "10.0.0.12 tcp/443"]);
        assert_eq!(both.members.len(), 4);
        assert_eq!(both.members[0].targets, both.members[2].targets);
        let quicker = service("c", "192.0.2.12", "check = { tcp = true, interval = '1s' }");
        assert_eq!(targets(&(two + &quicker)).targets.len(), 8, "another interval is another question");
    }

    #[test]
    fn families_are_asked_each_at_its_own_address() {
        let of = targets(
            "[service.a]\nvip = ['192.0.2.10', '2001:db8::10']\nports = 'tcp/80'\n\
             [[service.a.server]]\naddress = ['10.0.0.11', 'fd00::11']\n",
        );
        assert_eq!(shown(&of), ["10.0.0.11 tcp/80", "fd00::11 tcp/80"]);
        assert_eq!(of.members[0].key, "a/4/10.0.0.11");
    }

    #[test]
    fn each_vip_is_another_way_to_a_server_unless_it_sees_the_director_anyway() {
        let service = |name: &str, forward: &str| {
            format!(
                "[service.{name}]\nvip = ['192.0.2.10', '192.0.2.11', '2001:db8::10']\nports = 'tcp/80'\n\
                 check = [{{ tcp = true }}, {{ tcp = true, via = 'vip' }}]\n{forward}\n\
                 [[service.{name}.server]]\naddress = ['192.0.2.21', '2001:db8::21']\n"
            )
        };
        let all = ["192.0.2.21 tcp/80", "192.0.2.21 tcp/80 via 192.0.2.10", "192.0.2.21 tcp/80 via 192.0.2.11"];
        let v6 = ["2001:db8::21 tcp/80", "2001:db8::21 tcp/80 via 2001:db8::10"];
        let of = targets(&service("a", "forward = 'dr'"));
        assert_eq!(shown(&of), [&all[..], &v6[..]].concat());
        assert_eq!(of.members[0].targets.len(), of.members[0].checks.len());
        assert_eq!(of.members[0].checks[2].to_string(), "tcp/80 via 192.0.2.11");
        let fullnat = targets(&service("a", "forward = 'fullnat'\nsource = ['192.0.2.2', '2001:db8::2']"));
        assert_eq!(shown(&fullnat), [all[0], v6[0]]);
    }

    #[test]
    fn the_director_itself_is_asked_at_the_vip() {
        let of = targets(
            "[service.a]\nvip = '192.0.2.10'\nports = 'tcp/80'\nforward = 'local'\n[[service.a.server]]\nweight = 2\n",
        );
        assert_eq!(shown(&of), ["192.0.2.10 tcp/80"]);
        assert_eq!((of.members[0].key.as_str(), of.members[0].weight), ("a/4/local", 2));
    }

    #[test]
    fn whom_an_operator_has_taken_out_of_service_is_not_asked() {
        let text = "[router]\noutside = 'eth0'\n[service.a]\nvip = '192.0.2.10'\nports = 'tcp/80'\n\
                    [[service.a.server]]\naddress = '10.0.0.11'\n[[service.a.server]]\naddress = '10.0.0.12'\n";
        let mut plan = Plan::of(&marca_config::load("marca.toml", text).unwrap().config).unwrap();
        plan.services[0].reals[0].standing = Standing::Drained;
        assert_eq!(shown(&Targets::of(&plan)), ["10.0.0.12 tcp/80"]);
    }

    #[test]
    fn services_without_checks_have_no_members() {
        let udp = "[service.a]\nvip = '192.0.2.10'\nports = 'udp/53'\n[[service.a.server]]\naddress = '10.0.0.11'\n";
        assert_eq!(targets(udp), Targets::default());
    }
}
