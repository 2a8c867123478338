//! A question to a name server, and whether it was answered.

use simple_dns::{CLASS, Name, Packet, PacketFlag, QCLASS, QTYPE, Question, RCODE, TYPE};

/// What is asked.
#[derive(Clone, Debug)]
pub struct Query {
    name: Name<'static>,
    record: TYPE,
}

impl Query {
    /// `record` is the type's name, such as `AAAA`. None: there is no such name or type.
    pub fn new(name: &str, record: &str) -> Option<Self> {
        let record = match record {
            "A" => TYPE::A,
            "AAAA" => TYPE::AAAA,
            "CNAME" => TYPE::CNAME,
            "MX" => TYPE::MX,
            "NS" => TYPE::NS,
            "PTR" => TYPE::PTR,
            "SOA" => TYPE::SOA,
            "SRV" => TYPE::SRV,
            "TXT" => TYPE::TXT,
            _ => return None,
        };
        let name = name.strip_suffix('.').unwrap_or(name);
        let name = Name::new(name).ok()?.into_owned();
        Some(Self { name, record })
    }

    /// The message. `id` is random, and known again in the answer.
    pub fn bytes(&self, id: u16) -> Vec<u8> {
        let mut packet = Packet::new_query(id);
        packet.set_flags(PacketFlag::RECURSION_DESIRED);
        let question = Question::new(self.name.clone(), QTYPE::TYPE(self.record), QCLASS::CLASS(CLASS::IN), false);
        packet.questions.push(question);
        packet.build_bytes_vec().unwrap_or_default()
    }

    /// What a datagram says about it: nothing (it belongs to another question), that all is well, or what is wrong.
    pub fn judge(&self, id: u16, datagram: &[u8]) -> Option<Result<(), String>> {
        let Ok(packet) = Packet::parse(datagram) else {
            return Some(Err(format!("{} is no DNS message", super::shown(datagram))));
        };
        if packet.id() != id || !packet.has_flags(PacketFlag::RESPONSE) {
            return None;
        }
        Some(match packet.rcode() {
            RCODE::NoError if packet.answers.is_empty() => Err("the name has no such record".into()),
            RCODE::NoError => Ok(()),
            code => Err(format!("DNS answer {code:?}")),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use simple_dns::ResourceRecord;
    use simple_dns::rdata::{A, RData};

    fn answer(id: u16, code: RCODE, records: usize) -> Vec<u8> {
        let mut packet = Packet::new_reply(id);
        *packet.rcode_mut() = code;
        for _ in 0..records {
            let data = RData::A(A { address: 0x0a00_0001 });
            packet.answers.push(ResourceRecord::new(Name::new_unchecked("example.com"), CLASS::IN, 60, data));
        }
        packet.build_bytes_vec().unwrap()
    }

    #[test]
    fn a_question_asks_what_it_says() {
        let bytes = Query::new("example.com.", "MX").unwrap().bytes(7);
        let packet = Packet::parse(&bytes).unwrap();
        assert_eq!((packet.id(), packet.questions.len()), (7, 1));
        assert_eq!(packet.questions[0].qname.to_string(), "example.com");
        assert_eq!(packet.questions[0].qtype, QTYPE::TYPE(TYPE::MX));
        assert!(Query::new("example.com", "ANY").is_none());
        // The root, RFC 1035 §3.1: a length of zero.
        let root = Query::new(".", "NS").unwrap().bytes(7);
        assert_eq!(root[12..], [0, 0, 2, 0, 1]);
    }

    #[test]
    fn an_answer_is_judged() {
        let query = Query::new("example.com", "A").unwrap();
        assert_eq!(query.judge(7, &answer(7, RCODE::NoError, 1)), Some(Ok(())));
        assert_eq!(query.judge(7, &answer(8, RCODE::NoError, 1)), None, "another question's");
        assert_eq!(query.judge(7, &query.bytes(7)), None, "a question");
        assert!(matches!(query.judge(7, &answer(7, RCODE::NoError, 0)), Some(Err(_))));
        let refused = query.judge(7, &answer(7, RCODE::ServerFailure, 0));
        assert_eq!(refused, Some(Err("DNS answer ServerFailure".into())));
        assert!(matches!(query.judge(7, b"hello"), Some(Err(_))));
    }
}
