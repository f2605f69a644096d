//! What `pg_catalog` tells about in Postgres and what does not exist here: sessions, locks, policies, foreign servers and so on.
//!
//! Owns the relations that are empty, with the columns that clients select. Does not own relations that `datafusion-pg-catalog` has.

use std::sync::Arc;

use datafusion::{
    arrow::datatypes::{DataType, Field, Fields, Schema, TimeUnit},
    catalog::MemTable,
    common::Result,
};

/// Each with its columns: text, or what stands behind the colon.
const RELATIONS: [(&str, &str); 24] = [
    (
        "pg_available_extension_versions",
        "name version installed:bool superuser:bool trusted:bool relocatable:bool schema requires:texts comment",
    ),
    (
        "pg_available_extensions",
        "name default_version installed_version comment",
    ),
    (
        "pg_cursors",
        "name statement is_holdable:bool is_binary:bool is_scrollable:bool creation_time:moment",
    ),
    ("pg_group", "groname grosysid:int grolist:texts"),
    (
        "pg_indexes",
        "schemaname tablename indexname tablespace indexdef",
    ),
    (
        "pg_locks",
        "locktype database:int relation:int page:int tuple:int virtualxid transactionid:int classid:int objid:int \
         objsubid:int virtualtransaction pid:int mode granted:bool fastpath:bool waitstart:moment",
    ),
    ("pg_parameter_acl", "oid:int parname paracl:texts"),
    (
        "pg_policies",
        "schemaname tablename policyname permissive roles:texts cmd qual with_check",
    ),
    (
        "pg_prepared_statements",
        "name statement prepare_time:moment parameter_types:texts result_types:texts from_sql:bool generic_plans:long \
         custom_plans:long",
    ),
    (
        "pg_prepared_xacts",
        "transaction:int gid prepared:moment owner database",
    ),
    (
        "pg_publication_tables",
        "pubname schemaname tablename attnames:texts rowfilter",
    ),
    ("pg_rules", "schemaname tablename rulename definition"),
    (
        "pg_sequences",
        "schemaname sequencename sequenceowner data_type start_value:long min_value:long max_value:long increment_by:long \
         cycle:bool cache_size:long last_value:long",
    ),
    (
        "pg_stat_activity",
        "datid:int datname pid:int leader_pid:int usesysid:int usename application_name client_addr client_hostname \
         client_port:int backend_start:moment xact_start:moment query_start:moment state_change:moment wait_event_type \
         wait_event state backend_xid:int backend_xmin:int query_id:long query backend_type",
    ),
    (
        "pg_stat_all_indexes",
        "relid:int indexrelid:int schemaname relname indexrelname idx_scan:long last_idx_scan:moment idx_tup_read:long \
         idx_tup_fetch:long",
    ),
    (
        "pg_stat_database",
        "datid:int datname numbackends:int xact_commit:long xact_rollback:long blks_read:long blks_hit:long \
         tup_returned:long tup_fetched:long tup_inserted:long tup_updated:long tup_deleted:long conflicts:long \
         temp_files:long temp_bytes:long deadlocks:long stats_reset:moment",
    ),
    (
        "pg_stat_replication",
        "pid:int usesysid:int usename application_name client_addr state sync_state",
    ),
    (
        "pg_stat_ssl",
        "pid:int ssl:bool version cipher bits:int client_dn client_serial issuer_dn",
    ),
    (
        "pg_statio_user_tables",
        "relid:int schemaname relname heap_blks_read:long heap_blks_hit:long",
    ),
    (
        "pg_stats",
        "schemaname tablename attname inherited:bool null_frac:double avg_width:int n_distinct:double",
    ),
    ("pg_timezone_abbrevs", "abbrev utc_offset is_dst:bool"),
    ("pg_timezone_names", "name abbrev utc_offset is_dst:bool"),
    (
        "pg_user",
        "usename usesysid:int usecreatedb:bool usesuper:bool userepl:bool usebypassrls:bool passwd valuntil:moment \
         useconfig:texts",
    ),
    (
        "pg_user_mappings",
        "umid:int srvid:int srvname umuser:int usename umoptions:texts",
    ),
];

/// Their names.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    RELATIONS.iter().map(|(name, _)| *name)
}

/// One of them.
pub(super) fn relation(name: &str) -> Option<Result<MemTable>> {
    let (_, columns) = RELATIONS
        .iter()
        .find(|(known, _)| known.eq_ignore_ascii_case(name))?;
    let fields = columns.split_whitespace().map(|column| {
        let (name, kind) = column.split_once(':').unwrap_or((column, "text"));
        Field::new(name, typed(kind), true)
    });
    let schema = Arc::new(Schema::new(fields.collect::<Fields>()));
    Some(MemTable::try_new(schema, vec![Vec::new()]))
}

fn typed(kind: &str) -> DataType {
    match kind {
        "bool" => DataType::Boolean,
        "int" => DataType::Int32,
        "long" => DataType::Int64,
        "double" => DataType::Float64,
        "moment" => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        "texts" => DataType::List(Arc::new(Field::new_list_field(DataType::Utf8, true))),
        _ => DataType::Utf8,
    }
}
