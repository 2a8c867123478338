//! Numbers of services, real servers and hosts: kept from one plan to the next, so that connections recorded under a
//! number still mean what they meant. A number is free again only when no record holds it.

use marca_config::model::PortMatch;
use marca_config::plan::{Difference, Family, Plan, ServicePlan};
use serde::{Deserialize, Serialize};
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

/// Who has which number. Numbers begin at 1; 0 means nobody.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ids {
    services: BTreeMap<String, u32>,
    reals: BTreeMap<String, u32>,
    nodes: BTreeMap<IpAddr, u32>,
    /// No longer in the plan; their connections live on.
    leaving: BTreeSet<String>,
    #[serde(skip)]
    taken: Derived<Taken>,
    #[serde(skip)]
    index: Derived<Index>,
}

/// What the names say as well, if that has been looked for since they changed as a whole.
#[derive(Clone, Debug)]
struct Derived<T>(Option<T>);

impl<T> Default for Derived<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T> PartialEq for Derived<T> {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl<T> Eq for Derived<T> {}

/// Which numbers services, real servers and hosts have: among a hundred thousand names it takes milliseconds to find a
/// number that nobody has.
type Taken = [Vec<bool>; 3];

/// By services' names, of each family: to put a name together takes longer than to find it, and a start asks for half a
/// million.
type Index = HashMap<String, [Numbers; 2]>;

/// A service's number, and those of its real servers.
#[derive(Clone, Debug, Default)]
struct Numbers {
    service: Option<u32>,
    reals: HashMap<Option<IpAddr>, u32>,
}

impl Numbers {
    /// Notes the number that a name has now. Names of parts are put together when they are asked for.
    fn set(index: &mut Index, key: &str, number: Option<u32>) {
        let Some((name, family, real)) = words(key) else { return };
        let [v4, v6] = match index.get_mut(name) {
            Some(known) => known,
            None => index.entry(name.to_owned()).or_default(),
        };
        let numbers = if family == Family::V4 { v4 } else { v6 };
        match (real, number) {
            (None, number) => numbers.service = number,
            (Some(address), Some(number)) => _ = numbers.reals.insert(address, number),
            (Some(address), None) => _ = numbers.reals.remove(&address),
        }
        if numbers.service.is_none() && numbers.reals.is_empty() {
            *numbers = Self::default();
        }
    }
}

/// What a name is made of: the service's, its family, and of a real server the address; `None` of a part's.
fn words(key: &str) -> Option<(&str, Family, Option<Option<IpAddr>>)> {
    let mut words = key.splitn(3, '/');
    let (name, family) = (words.next()?, words.next()?);
    let family = Family::ALL.into_iter().find(|known| family.chars().eq([suffix(*known)]))?;
    let real = match words.next() {
        None => None,
        Some(LOCAL) => Some(None),
        Some(address) => Some(Some(address.parse().ok()?)),
    };
    (!name.contains(':')).then_some((name, family, real))
}

/// In the place of an address.
const LOCAL: &str = "local";

/// What has become of numbers, for whoever knows those before. What follows from the same changes again, in their order, is
/// the same.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Renumbered {
    services: BTreeMap<String, u32>,
    reals: BTreeMap<String, u32>,
    nodes: BTreeMap<IpAddr, u32>,
    /// Those whose numbers are free now.
    released: BTreeSet<String>,
    /// Others that have left the plan, and that are in it again.
    left: BTreeSet<String>,
    back: BTreeSet<String>,
}

impl Renumbered {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Numbers that real servers newly have.
    pub fn reals(&self) -> Vec<u32> {
        self.reals.values().copied().collect()
    }
}

/// A plan asks for more numbers than the tables have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the tables have room for {capacity} {what}, and all are in use or still have connections")]
pub struct NoNumber {
    what: &'static str,
    capacity: u32,
}

fn suffix(family: Family) -> char {
    match family {
        Family::V4 => '4',
        Family::V6 => '6',
    }
}

/// The name under which a service's family has its number.
pub fn service_key(name: &str, family: Family) -> String {
    format!("{name}/{}", suffix(family))
}

/// The name under which a part of a service has its number: see [`ServicePlan::parts`]. No service's name has a colon.
fn part_key(name: &str, part: PortMatch, family: Family) -> String {
    format!("{name}:{part}/{}", suffix(family))
}

/// The name under which a real server of a service has its number: its address, so that a new label keeps counters.
pub fn real_key(service: &str, family: Family, address: Option<IpAddr>) -> String {
    match address {
        Some(address) => format!("{service}/{}/{address}", suffix(family)),
        None => format!("{service}/{}/{LOCAL}", suffix(family)),
    }
}

impl Ids {
    /// Gives numbers to everything in the plan, and answers those that real servers newly have; what is no longer in the
    /// plan is leaving. Nothing changes on error.
    ///
    /// # Errors
    /// When numbers run out.
    pub fn assign(&mut self, plan: &Plan, services: u32, reals: u32) -> Result<Vec<u32>, NoNumber> {
        let mut next = self.clone();
        let known = || self.services.keys().chain(self.reals.keys());
        // None are known to most that start.
        let wanted: BTreeSet<String> =
            known().next().into_iter().flat_map(|_| plan.services.iter().flat_map(keys)).collect();
        next.leaving = known().filter(|key| !wanted.contains(*key)).cloned().collect();
        let taken = next.look();
        let mut free_services = Free::of(&taken[0], services, "services");
        let mut free_reals = Free::of(&taken[1], reals, "real servers");
        let mut free_nodes = Free::of(&taken[2], u32::MAX, "hosts");
        for service in &plan.services {
            for key in service_keys(service) {
                free_services.number(&mut next.services, key)?;
            }
            for real in &service.reals {
                free_reals.number(&mut next.reals, real_key(&service.name, service.family, real.address))?;
                if let Some(address) = real.address {
                    free_nodes.number(&mut next.nodes, address)?;
                }
            }
        }
        let new = next.reals.iter().filter(|(key, _)| !self.reals.contains_key(*key)).map(|(_, &n)| n).collect();
        // For the next change, which has less time.
        next.taken = Derived(Some(next.look()));
        next.index = Derived(Some(next.index()));
        *self = next;
        Ok(new)
    }

    /// [`assign`](Self::assign) for a plan that follows another one, whose numbers these are; as much work as there is
    /// difference. Answers all that it has changed. `replace` the other way round takes it back, but that what was new keeps its number a while.
    ///
    /// # Errors
    /// When numbers run out; nothing has changed then.
    pub fn replace(
        &mut self,
        (old, new): (&Plan, &Plan),
        difference: &Difference,
        services: u32,
        reals: u32,
    ) -> Result<Renumbered, NoNumber> {
        let former = difference.changed.iter().filter_map(|(before, _)| *before).chain(difference.gone.iter().copied());
        let former: Vec<&ServicePlan> = former.map(|index| &old.services[index]).collect();
        let wanted: Vec<&ServicePlan> = difference.changed.iter().map(|(_, index)| &new.services[*index]).collect();
        let new_services = wanted.iter().flat_map(|service| service_keys(service));
        let new_services: Vec<String> = new_services.filter(|key| !self.services.contains_key(key)).collect();
        let all = || wanted.iter().flat_map(|service| service.reals.iter().map(move |real| (service, real.address)));
        let new_reals: Vec<String> = all()
            .map(|(service, address)| real_key(&service.name, service.family, address))
            .filter(|key| !self.reals.contains_key(key))
            .collect();
        let new_nodes: BTreeSet<IpAddr> =
            all().filter_map(|(_, address)| address).filter(|address| !self.nodes.contains_key(address)).collect();
        // All that may fail, before anything is changed.
        let taken = self.taken.0.take().unwrap_or_else(|| self.look());
        let new_services = Free::of(&taken[0], services, "services").several(new_services)?;
        let new_reals = Free::of(&taken[1], reals, "real servers").several(new_reals)?;
        let new_nodes = Free::of(&taken[2], u32::MAX, "hosts").several(new_nodes)?;
        self.taken = Derived(Some(taken));
        let wants: BTreeSet<String> = wanted.into_iter().flat_map(keys).collect();
        let had = former.into_iter().flat_map(keys).filter(|key| !wants.contains(key) && !self.leaving.contains(key));
        let renumbered = Renumbered {
            services: new_services.into_iter().collect(),
            reals: new_reals.into_iter().collect(),
            nodes: new_nodes.into_iter().collect(),
            released: BTreeSet::new(),
            left: had.collect(),
            back: wants.into_iter().filter(|key| self.leaving.contains(key)).collect(),
        };
        self.follow(&renumbered);
        Ok(renumbered)
    }

    /// Does once more what was done to the same numbers.
    pub fn follow(&mut self, renumbered: &Renumbered) {
        let Renumbered { services, reals, nodes, released, left, back } = renumbered;
        let mut taken = self.taken.0.take();
        for key in released {
            let numbers = [self.services.remove(key), self.reals.remove(key)];
            for (taken, number) in taken.iter_mut().flatten().zip(numbers) {
                number.into_iter().for_each(|number| mark(taken, number, false));
            }
            self.leaving.remove(key);
        }
        if let Some([of_services, of_reals, of_nodes]) = &mut taken {
            services.values().for_each(|&number| mark(of_services, number, true));
            reals.values().for_each(|&number| mark(of_reals, number, true));
            nodes.values().for_each(|&number| mark(of_nodes, number, true));
        }
        self.taken = Derived(taken);
        if let Some(index) = &mut self.index.0 {
            released.iter().for_each(|key| Numbers::set(index, key, None));
            services.iter().chain(reals).for_each(|(key, number)| Numbers::set(index, key, Some(*number)));
        }
        self.services.extend(services.iter().map(|(key, number)| (key.clone(), *number)));
        self.reals.extend(reals.iter().map(|(key, number)| (key.clone(), *number)));
        self.nodes.extend(nodes);
        self.leaving.extend(left.iter().cloned());
        back.iter().for_each(|key| _ = self.leaving.remove(key));
    }

    /// See [`Taken`].
    fn look(&self) -> Taken {
        let mut taken = [const { Vec::new() }; 3];
        self.services.values().for_each(|&number| mark(&mut taken[0], number, true));
        self.reals.values().for_each(|&number| mark(&mut taken[1], number, true));
        self.nodes.values().for_each(|&number| mark(&mut taken[2], number, true));
        taken
    }

    /// See [`Index`].
    fn index(&self) -> Index {
        let mut index = Index::new();
        let all = self.services.iter().chain(&self.reals);
        all.for_each(|(key, number)| Numbers::set(&mut index, key, Some(*number)));
        index
    }

    /// Of the index, if there is one.
    fn numbers_of(&self, name: &str, family: Family) -> Option<Option<&Numbers>> {
        let of_name = self.index.0.as_ref()?.get(name);
        Some(of_name.map(|[v4, v6]| if family == Family::V4 { v4 } else { v6 }))
    }

    pub fn service(&self, name: &str, family: Family) -> Option<u32> {
        if let Some(numbers) = self.numbers_of(name, family) {
            return numbers?.service;
        }
        self.services.get(&service_key(name, family)).copied()
    }

    /// The number of one of a service's parts; of the service itself without one.
    pub fn part(&self, service: &ServicePlan, part: Option<u8>) -> Option<u32> {
        let Some(part) = part else { return self.service(&service.name, service.family) };
        let port = service.parts.get(usize::from(part))?;
        self.services.get(&part_key(&service.name, *port, service.family)).copied()
    }

    /// The numbers of a service and of its parts.
    pub fn numbers(&self, service: &ServicePlan) -> impl Iterator<Item = u32> {
        parts(service).filter_map(|part| self.part(service, part))
    }

    pub fn real(&self, service: &str, family: Family, address: Option<IpAddr>) -> Option<u32> {
        if let Some(numbers) = self.numbers_of(service, family) {
            return numbers?.reals.get(&address).copied();
        }
        self.reals.get(&real_key(service, family, address)).copied()
    }

    /// The number that a real server's key has.
    pub fn real_by_key(&self, key: &str) -> Option<u32> {
        self.reals.get(key).copied()
    }

    pub fn node(&self, address: IpAddr) -> Option<u32> {
        self.nodes.get(&address).copied()
    }

    /// Real servers that are no longer in the plan.
    pub fn leaving_reals(&self) -> impl Iterator<Item = u32> {
        self.leaving.iter().filter_map(|key| self.reals.get(key).copied())
    }

    /// Real servers that are no longer in the plan, by their keys.
    pub fn leaving(&self) -> impl Iterator<Item = (&str, u32)> {
        self.leaving.iter().filter_map(|key| Some((key.as_str(), *self.reals.get(key)?)))
    }

    /// Services that are no longer in the plan.
    pub fn leaving_services(&self) -> impl Iterator<Item = u32> {
        self.leaving.iter().filter_map(|key| self.services.get(key).copied())
    }

    /// The numbers of those that are leaving and have no records left become free.
    pub fn release(&mut self, has_records: impl Fn(&IdKind) -> bool) -> Renumbered {
        let released: BTreeSet<String> = self
            .leaving
            .iter()
            .filter(|key| {
                let real = self.reals.get(*key).is_none_or(|&n| !has_records(&IdKind::Real(n)));
                let service = self.services.get(*key).is_none_or(|&n| !has_records(&IdKind::Service(n)));
                real && service
            })
            .cloned()
            .collect();
        let renumbered = Renumbered { released, ..Renumbered::default() };
        self.follow(&renumbered);
        renumbered
    }
}

/// A service as a whole, and each of its parts.
pub fn parts(service: &ServicePlan) -> impl Iterator<Item = Option<u8>> + use<> {
    std::iter::once(None).chain((0..service.parts.len() as u8).map(Some))
}

/// The names of a service and of its parts.
fn service_keys(service: &ServicePlan) -> impl Iterator<Item = String> {
    let parts = service.parts.iter().map(|part| part_key(&service.name, *part, service.family));
    std::iter::once(service_key(&service.name, service.family)).chain(parts)
}

/// The names of a service, of its parts, and of its real servers.
fn keys(service: &ServicePlan) -> impl Iterator<Item = String> {
    let reals = service.reals.iter().map(|real| real_key(&service.name, service.family, real.address));
    service_keys(service).chain(reals)
}

/// A number, and of what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdKind {
    Service(u32),
    Real(u32),
}

fn mark(taken: &mut Vec<bool>, number: u32, is: bool) {
    let number = number as usize;
    if taken.len() <= number {
        taken.resize(number + 1, false);
    }
    taken[number] = is;
}

/// The numbers that nobody has, from the lowest.
struct Free<'a> {
    /// By number; what is beyond the end is free.
    taken: &'a [bool],
    next: u32,
    capacity: u32,
    what: &'static str,
}

impl<'a> Free<'a> {
    fn of(taken: &'a [bool], capacity: u32, what: &'static str) -> Self {
        Self { taken, next: 1, capacity, what }
    }

    /// Numbers for all of these.
    fn several<K>(mut self, keys: impl IntoIterator<Item = K>) -> Result<Vec<(K, u32)>, NoNumber> {
        keys.into_iter().map(|key| Ok((key, self.take()?))).collect()
    }

    /// Gives `key` a number, unless it has one.
    fn number<K: Ord>(&mut self, map: &mut BTreeMap<K, u32>, key: K) -> Result<(), NoNumber> {
        let Entry::Vacant(place) = map.entry(key) else { return Ok(()) };
        place.insert(self.take()?);
        Ok(())
    }

    fn take(&mut self) -> Result<u32, NoNumber> {
        while self.taken.get(self.next as usize) == Some(&true) {
            self.next += 1;
        }
        if self.next >= self.capacity {
            return Err(NoNumber { what: self.what, capacity: self.capacity });
        }
        self.next += 1;
        Ok(self.next - 1)
    }
}
