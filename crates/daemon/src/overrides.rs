//! What operators have said of real servers by hand, beside what the configuration says: drained, disabled, another
//! weight. It lies between the configuration and the standings: a plan with its overrides is what those apply to.
//!
//! No clock and no tables: times come in, plans and what has ended go out. It outlives the daemon as a file, and a reload
//! for the servers that are still there.

use crate::standings::Meant;
use jiff::Timestamp;
use marca_config::plan::{Plan, RealPlan, Role, ServicePlan, Standing};
use marca_config::text::duration;
use marca_tables::ids::real_key;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Real servers by the keys of their numbers ([`real_key`]).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overrides {
    servers: BTreeMap<String, Override>,
}

/// What is said of one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Override {
    /// `shop/web1`.
    name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duty: Option<(Duty, Until)>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<(u16, Until)>,
}

/// What a real server is to do less.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Duty {
    /// No new clients: as weight 0 in the configuration, with the service's `drain`.
    Drained,
    /// Nor those that come back; its connections go on.
    Disabled,
}

impl Duty {
    pub fn name(self) -> &'static str {
        match self {
            Duty::Drained => "drained",
            Duty::Disabled => "disabled",
        }
    }
}

/// How long something holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Until {
    /// Until it is taken back.
    #[default]
    TakenBack,
    /// Since boot: a clock that is set does not move it.
    Boot(Duration),
    /// A moment of the calendar.
    Clock(Timestamp),
}

/// What time it is, by both.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    pub boot: Duration,
    pub clock: Timestamp,
}

impl Until {
    /// Reads `10m` or what RFC 3339 takes for a moment.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str, now: Now) -> Result<Self, String> {
        if let Ok(moment) = text.parse::<Timestamp>() {
            if moment <= now.clock {
                return Err(format!("{text} is past"));
            }
            return Ok(Self::Clock(moment));
        }
        match duration::parse(text) {
            Ok(duration) => Ok(Self::Boot(now.boot + duration)),
            Err(_) => Err(format!(
                "`{text}` is neither a duration, as `10m` or `1h30m`, nor a moment, as `2026-12-31T18:00:00Z`"
            )),
        }
    }

    /// Until it is over; `None` when only a hand ends it.
    pub fn left(self, now: Now) -> Option<Duration> {
        match self {
            Self::TakenBack => None,
            Self::Boot(moment) => Some(moment.saturating_sub(now.boot)),
            Self::Clock(moment) => Some(Duration::try_from(moment.duration_since(now.clock)).unwrap_or_default()),
        }
    }

    fn is_over(self, now: Now) -> bool {
        self.left(now).is_some_and(|left| left.is_zero())
    }

    /// As RFC 3339 has it, to the second.
    pub fn moment(self, now: Now) -> Option<String> {
        let moment = match self {
            Self::Clock(moment) => moment,
            _ => now.clock.checked_add(self.left(now)?).ok()?,
        };
        Some(format!("{moment:.0}"))
    }
}

/// What an operator says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Set(Duty),
    /// Takes a duty back.
    Unset(Duty),
    /// None: that of the configuration again.
    Weight(Option<u16>),
}

/// What has come of it: `shop/web1 drains until …`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Told {
    name: String,
    text: String,
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name, self.text)
    }
}

impl Overrides {
    pub fn is_empty(&self) -> bool {
        self.servers.is_empty()
    }

    /// What is said of a real server of the plan.
    pub fn of(&self, service: &ServicePlan, real: &RealPlan) -> Option<&Override> {
        // Nearly always there are none, and keys are made of text.
        if self.servers.is_empty() { None } else { self.servers.get(&key_of(service, real)) }
    }

    /// Says something of the real servers that are meant; answers which services that concerns, and what to tell.
    ///
    /// # Errors
    /// Who is not in the plan; nothing has changed then.
    pub fn say(
        &mut self,
        plan: &Plan,
        meant: &[Meant],
        change: Change,
        (until, now): (Until, Now),
    ) -> Result<(Vec<usize>, Vec<Told>), String> {
        let mut next = self.clone();
        let (mut services, mut told) = (Vec::new(), Vec::new());
        for meant in meant {
            let before = services.len();
            for (index, service) in plan.services.iter().enumerate() {
                for real in service.reals.iter().filter(|real| meant.is(service, real)) {
                    services.push(index);
                    let name = format!("{}/{}", service.name, real.name);
                    let known = next.servers.entry(key_of(service, real)).or_default();
                    known.name.clone_from(&name);
                    told.push(Told { name, text: known.say(change, (until, now), real.weight) });
                }
            }
            if services.len() == before {
                return Err(meant.to_string());
            }
        }
        next.servers.retain(|_, known| !known.is_nothing());
        *self = next;
        services.sort_unstable();
        services.dedup();
        told.sort_unstable();
        told.dedup();
        Ok((services, told))
    }

    /// After a reboot: `now_is` tells a time of the boot before as one of this boot.
    pub fn rebooted(mut self, now_is: impl Fn(Duration) -> Duration) -> Self {
        for known in self.servers.values_mut() {
            let ends = [known.duty.as_mut().map(|(_, until)| until), known.weight.as_mut().map(|(_, until)| until)];
            for until in ends.into_iter().flatten() {
                if let Until::Boot(moment) = until {
                    *until = Until::Boot(now_is(*moment));
                }
            }
        }
        self
    }

    /// Only those of real servers that are in this plan.
    pub fn kept(&self, plan: &Plan) -> Self {
        if self.servers.is_empty() {
            return Self::default();
        }
        let all = plan.services.iter().flat_map(|service| service.reals.iter().map(move |real| (service, real)));
        let kept = all.filter_map(|(service, real)| {
            let key = key_of(service, real);
            let mut known = self.servers.get(&key)?.clone();
            known.name = format!("{}/{}", service.name, real.name);
            Some((key, known))
        });
        Self { servers: kept.collect() }
    }

    /// A plan as it is with them; the same one where they say nothing of it.
    pub fn apply(&self, plan: &Arc<Plan>) -> Arc<Plan> {
        let mut with = Arc::clone(plan);
        if self.servers.is_empty() {
            return with;
        }
        for (index, service) in plan.services.iter().enumerate() {
            for (place, real) in service.reals.iter().enumerate() {
                if let Some(known) = self.servers.get(&key_of(service, real)) {
                    Arc::make_mut(&mut with).services[index].reals[place] = known.apply(real);
                }
            }
        }
        with
    }

    /// Ends what is over; what to tell of it.
    pub fn due(&mut self, now: Now) -> Vec<Told> {
        let mut told = Vec::new();
        for known in self.servers.values_mut() {
            if let Some((duty, _)) = known.duty.take_if(|(_, until)| until.is_over(now)) {
                told.push(Told {
                    name: known.name.clone(),
                    text: format!("is no longer {}: its time is over", duty.name()),
                });
            }
            if known.weight.take_if(|(_, until)| until.is_over(now)).is_some() {
                let text = "has the weight of the configuration again: its time is over".to_owned();
                told.push(Told { name: known.name.clone(), text });
            }
        }
        self.servers.retain(|_, known| !known.is_nothing());
        told.sort_unstable();
        told.dedup();
        told
    }
}

impl Override {
    fn is_nothing(&self) -> bool {
        self.duty.is_none() && self.weight.is_none()
    }

    /// What to tell of it.
    fn say(&mut self, change: Change, (until, now): (Until, Now), configured: u16) -> String {
        let end = until.moment(now).map_or(String::new(), |moment| format!(" until {moment}"));
        match change {
            Change::Set(duty) => {
                self.duty = Some((duty, until));
                let does = if duty == Duty::Drained { "drains" } else { "is disabled" };
                format!("{does}{end}")
            }
            Change::Unset(duty) => match self.duty.take_if(|(known, _)| *known == duty) {
                Some(_) => format!("is no longer {}", duty.name()),
                None => format!("was not {}", duty.name()),
            },
            Change::Weight(Some(weight)) => {
                self.weight = Some((weight, until));
                format!("has weight {weight}{end}")
            }
            Change::Weight(None) => {
                self.weight = None;
                format!("has the weight of the configuration, {configured}")
            }
        }
    }

    fn apply(&self, real: &RealPlan) -> RealPlan {
        let weight = self.weight.map_or(real.weight, |(weight, _)| weight);
        if real.role == Role::Sorry {
            // It has no weight of its own, and nobody but clients that nobody else takes.
            let takes_nobody = self.duty.is_some() || self.weight.is_some_and(|(weight, _)| weight == 0);
            let standing = if takes_nobody { Standing::Drained } else { real.standing };
            return RealPlan { standing, ..real.clone() };
        }
        match self.duty {
            None => RealPlan { weight, ..real.clone() },
            Some((Duty::Drained, _)) => RealPlan { weight: 0, ..real.clone() },
            Some((Duty::Disabled, _)) => RealPlan { weight: 0, standing: Standing::Drained, ..real.clone() },
        }
    }
}

fn key_of(service: &ServicePlan, real: &RealPlan) -> String {
    real_key(&service.name, service.family, real.address)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(servers: &[(&str, u16)]) -> Arc<Plan> {
        let mut text = "[router]\noutside = 'eth0'\n[service.shop]\nvip = '192.0.2.10'\nports = 'tcp/80'\n".to_owned();
        for (index, (name, weight)) in servers.iter().enumerate() {
            let address = name.strip_prefix("web").unwrap_or("9").parse::<usize>().unwrap_or(index) + 10;
            text.push_str(&format!(
                "[[service.shop.server]]\nname = '{name}'\naddress = '10.0.0.{address}'\nweight = {weight}\n"
            ));
        }
        Arc::new(Plan::of(&marca_config::load("marca.toml", &text).unwrap().config).unwrap())
    }

    fn now(seconds: u64) -> Now {
        let clock = Timestamp::from_second(1_800_000_000 + seconds as i64).unwrap();
        Now { boot: Duration::from_secs(1000 + seconds), clock }
    }

    /// Weights and standings.
    fn reals(overrides: &Overrides, plan: &Arc<Plan>) -> Vec<(u16, Standing)> {
        overrides.apply(plan).services[0].reals.iter().map(|real| (real.weight, real.standing)).collect()
    }

    fn say(overrides: &mut Overrides, plan: &Plan, server: &str, change: Change, until: Until) -> Vec<String> {
        let (_, told) = overrides.say(plan, &[Meant::of(server)], change, (until, now(0))).unwrap();
        told.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_hand_takes_weight_away_and_gives_it_back() {
        let plan = plan(&[("web1", 3), ("web2", 1)]);
        let mut overrides = Overrides::default();
        assert!(Arc::ptr_eq(&overrides.apply(&plan), &plan));
        let forever = Until::TakenBack;
        assert_eq!(say(&mut overrides, &plan, "shop/web1", Change::Set(Duty::Drained), forever), ["shop/web1 drains"]);
        assert_eq!(reals(&overrides, &plan), [(0, Standing::Serving), (1, Standing::Serving)]);
        assert_eq!(say(&mut overrides, &plan, "web2", Change::Weight(Some(7)), forever), ["shop/web2 has weight 7"]);
        say(&mut overrides, &plan, "web1", Change::Set(Duty::Disabled), forever);
        assert_eq!(reals(&overrides, &plan), [(0, Standing::Drained), (7, Standing::Serving)]);
        let unset = |overrides: &mut Overrides, duty| say(overrides, &plan, "web1", Change::Unset(duty), forever);
        assert_eq!(unset(&mut overrides, Duty::Drained), ["shop/web1 was not drained"]);
        assert_eq!(unset(&mut overrides, Duty::Disabled), ["shop/web1 is no longer disabled"]);
        assert_eq!(
            say(&mut overrides, &plan, "web2", Change::Weight(None), forever),
            ["shop/web2 has the weight of the configuration, 1"]
        );
        assert!(overrides.is_empty());
        let unknown = overrides.say(
            &plan,
            &[Meant::of("web1"), Meant::of("web9")],
            Change::Set(Duty::Drained),
            (forever, now(0)),
        );
        assert_eq!(unknown, Err("web9".to_owned()));
        assert!(overrides.is_empty(), "all or none");
    }

    #[test]
    fn it_holds_until_its_time_is_over_whatever_the_clock_does() {
        let plan = plan(&[("web1", 3), ("web2", 1)]);
        let mut overrides = Overrides::default();
        let ten = Until::parse("10m", now(0)).unwrap();
        assert_eq!(
            say(&mut overrides, &plan, "web1", Change::Set(Duty::Drained), ten),
            ["shop/web1 drains until 2027-01-15T08:10:00Z"]
        );
        let moment = Until::parse("2027-01-15T08:05:00Z", now(0)).unwrap();
        say(&mut overrides, &plan, "web2", Change::Weight(Some(0)), moment);
        assert_eq!(overrides.due(now(299)), []);
        let told: Vec<String> = overrides.due(now(300)).iter().map(ToString::to_string).collect();
        assert_eq!(told, ["shop/web2 has the weight of the configuration again: its time is over"]);
        // Somebody sets the clock.
        let early = Now { clock: now(100_000).clock, ..now(599) };
        assert_eq!(overrides.due(early), []);
        assert_eq!(ten.left(now(599)), Some(Duration::from_secs(1)));
        // Or boots anew, ten minutes of which four are left.
        let mut rebooted = overrides.clone().rebooted(|time| time.saturating_sub(Duration::from_secs(1360)));
        assert_eq!(rebooted.due(Now { boot: Duration::from_secs(239), ..now(0) }), []);
        assert_eq!(rebooted.due(Now { boot: Duration::from_secs(240), ..now(0) }).len(), 1);
        assert_eq!(overrides.due(now(600)).len(), 1);
        assert!(overrides.is_empty());
    }

    #[test]
    fn a_reload_keeps_what_is_said_of_servers_that_are_still_there() {
        let before = plan(&[("web1", 3), ("web2", 1)]);
        let mut overrides = Overrides::default();
        say(&mut overrides, &before, "web1", Change::Set(Duty::Drained), Until::TakenBack);
        say(&mut overrides, &before, "web2", Change::Set(Duty::Disabled), Until::TakenBack);
        let text = serde_json::to_string(&overrides).unwrap();
        assert_eq!(serde_json::from_str::<Overrides>(&text).unwrap(), overrides);
        let after = plan(&[("web2", 5), ("web3", 1)]);
        let kept = overrides.kept(&after);
        assert_eq!(reals(&kept, &after), [(0, Standing::Drained), (1, Standing::Serving)]);
        assert_eq!(reals(&kept, &before), [(3, Standing::Serving), (0, Standing::Drained)], "web1 is forgotten");
    }

    #[test]
    fn ends_are_durations_or_moments_to_come() {
        for text in ["10m", "1h30m", "2027-01-15T08:00:01Z", "2027-01-15T10:00:01+02:00"] {
            assert!(Until::parse(text, now(0)).is_ok(), "{text}");
        }
        for text in ["", "10", "soon", "2027-01-15", "2027-01-15T07:59:59Z", "-5m"] {
            assert!(Until::parse(text, now(0)).is_err(), "{text}");
        }
    }
}
