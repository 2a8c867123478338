//! `[api]`.

use super::reader::{Entry, Reader, Table};
use crate::draft::{ApiDraft, Field, TokenDraft};
use crate::model::Access;
use crate::text::{access as text, name};

pub(super) fn read<'t>(reader: &mut Reader<'t>, entry: Option<Entry<'t>>) -> ApiDraft {
    let Some(entry) = entry else { return ApiDraft::default() };
    let Some(mut table) = reader.table(&entry, "api") else { return ApiDraft::default() };
    let header = Some(table.header().clone());
    let listen = table.take("listen");
    let listen = reader.some_strings(listen, text::endpoint, "leave `listen` out to take no requests");
    let certificate = reader.string(table.take("certificate"), text::file);
    let key = reader.string(table.take("key"), text::file);
    let tokens = table.take("token").map(|entry| reader.tables(&entry, "api.token[]")).unwrap_or_default();
    let tokens = tokens.into_iter().map(|table| table.map_or_else(refused, |table| token(reader, table))).collect();
    table.finish(reader);
    ApiDraft { header, listen, certificate, key, tokens }
}

const ACCESS_NAMES: &[(&str, Access)] = &[("read", Access::Read), ("admin", Access::Admin)];

fn token<'t>(reader: &mut Reader<'t>, mut table: Table<'t>) -> TokenDraft {
    let (name, access, digest) =
        (table.require(reader, "name"), table.require(reader, "access"), table.require(reader, "sha256"));
    let token = TokenDraft {
        name: reader.string(name, name::token),
        access: reader.choice(access, "kind of access", ACCESS_NAMES),
        digest: reader.string(digest, text::digest),
    };
    table.finish(reader);
    token
}

fn refused() -> TokenDraft {
    TokenDraft { name: Field::Refused, access: Field::Refused, digest: Field::Refused }
}
