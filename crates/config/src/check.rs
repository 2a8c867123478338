//! What contradicts what. Each check works on a draft and keeps silent where a hole in it (something that was
//! refused, with a diagnostic of its own) may be the reason for what it finds.

mod api;
mod availability;
mod claims;
mod ftp;
mod fullnat;
mod health;
mod marks;
mod servers;
mod service;

use crate::diagnostic::Diagnostic;
use crate::draft::{Draft, MarkDraft, ServiceDraft};
use crate::pieces;

/// All contradictions of a file.
pub(crate) fn check(draft: &Draft) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    api::check(&draft.api, &mut found);
    let alone = |services: &[ServiceDraft]| {
        let mut found = Vec::new();
        services.iter().for_each(|service| by_itself(service, &draft.marks, &mut found));
        found
    };
    found.extend(pieces::each(&draft.services, alone).into_iter().flatten());
    claims::check(&draft.services, &mut found);
    ftp::passive_ports(&draft.services, &mut found);
    claims::outbound(&draft.services, &draft.marks, &mut found);
    marks::check(draft, &mut found);
    fullnat::sources(draft, &mut found);
    found
}

fn by_itself(service: &ServiceDraft, marks: &[MarkDraft], found: &mut Vec<Diagnostic>) {
    service::check(service, marks, found);
    ftp::check(service, found);
    servers::check(service, marks, found);
    availability::check(service, marks, found);
    health::check(service, marks, found);
}
