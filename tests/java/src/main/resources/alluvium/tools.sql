-- What tools ask while they connect, while they fill their trees, and when a table is opened. Written after their documented
-- behaviour: facts about which catalogue they read and how, for the tools themselves are not here.
--
-- Blocks stand apart by an empty line. In a block's comments `has:` names texts that must be among the values, `rows:` how
-- many rows there are. ?schema and ?table are the identifiers of `public` and of `every_type` in it, ?database the database's
-- name, ?name the table's.

-- DBeaver connects
SET extra_float_digits = 3

-- DBeaver connects
SET application_name = 'DBeaver 25.3.0 - Main'

-- DBeaver: who and where am I? rows: 1
-- has: public
SELECT current_schema(), session_user

-- DBeaver: is this column known? rows: 0
SELECT reltype FROM pg_catalog.pg_class WHERE 1<>1 LIMIT 1

-- DBeaver: rows: 0
SELECT 1 FROM pg_catalog.pg_enum WHERE 1<>1 LIMIT 1

-- DBeaver: rows: 0
SELECT datcollate FROM pg_catalog.pg_database WHERE 1<>1 LIMIT 1

-- DBeaver: the database. rows: 1
-- has: alluvium
SELECT db.oid,db.* FROM pg_catalog.pg_database db WHERE datname=?database

-- DBeaver: the databases. has: alluvium
SELECT db.oid,db.* FROM pg_catalog.pg_database db WHERE datallowconn AND NOT datistemplate OR db.datname =?database ORDER BY db.datname

-- DBeaver: may I? has: t
SELECT has_database_privilege(?database, 'CONNECT')

-- DBeaver: the search path. has: public
SHOW search_path

-- DBeaver: a setting. rows: 1
-- has: on
select setting from pg_catalog.pg_settings where name='standard_conforming_strings'

-- DBeaver: all settings. has: server_version
select * from pg_catalog.pg_settings

-- DBeaver: the schemas. has: public, panes, dead_letters, system
SELECT n.oid,n.*,d.description FROM pg_catalog.pg_namespace n
LEFT OUTER JOIN pg_catalog.pg_description d ON d.objoid=n.oid AND d.objsubid=0 AND d.classoid='pg_namespace'::regclass
ORDER BY nspname

-- DBeaver: the types. has: int8, timestamptz, numeric, bytea
SELECT t.oid,t.*,c.relkind,format_type(nullif(t.typbasetype, 0), t.typtypmod) as base_type_name, d.description
FROM pg_catalog.pg_type t
LEFT OUTER JOIN pg_catalog.pg_type et ON et.oid=t.typelem
LEFT OUTER JOIN pg_catalog.pg_class c ON c.oid=t.typrelid
LEFT OUTER JOIN pg_catalog.pg_description d ON t.oid=d.objoid
WHERE t.typname IS NOT NULL
AND (c.relkind IS NULL OR c.relkind = 'c') AND (et.typcategory IS NULL OR et.typcategory <> 'C')

-- DBeaver: values of enumerations. rows: 0
SELECT e.enumlabel FROM pg_catalog.pg_enum e WHERE e.enumtypid=?table ORDER BY e.enumsortorder

-- DBeaver: roles
SELECT a.oid,a.*,pd.description FROM pg_catalog.pg_roles a
LEFT JOIN pg_catalog.pg_shdescription pd ON a.oid = pd.objoid ORDER BY a.rolname

-- DBeaver: members of roles. rows: 0
SELECT * FROM pg_catalog.pg_auth_members WHERE member=?table

-- DBeaver: table spaces
SELECT t.oid,t.*,pg_tablespace_location(t.oid) loc FROM pg_catalog.pg_tablespace t ORDER BY t.oid

-- DBeaver: character sets. has: UTF8
SELECT c.contoencoding as encid,pg_catalog.pg_encoding_to_char(c.contoencoding) as encname
FROM pg_catalog.pg_conversion c GROUP BY c.contoencoding ORDER BY 2

-- DBeaver: collations
SELECT c.oid,c.* FROM pg_catalog.pg_collation c ORDER BY c.oid

-- DBeaver: languages. has: sql
SELECT l.oid,l.* FROM pg_catalog.pg_language l ORDER BY l.oid

-- DBeaver: access methods
SELECT am.oid,am.* FROM pg_catalog.pg_am am ORDER BY am.oid

-- DBeaver: extensions
SELECT e.oid, cfg.tbls, n.nspname as schema_name, e.*
FROM pg_catalog.pg_extension e
join pg_namespace n on n.oid =e.extnamespace
left join (
  select ARRAY_AGG(ns.nspname || '.' || cls.relname) tbls, oid_ext
  from (select unnest(e1.extconfig) oid , e1.oid oid_ext from pg_catalog.pg_extension e1) c
  join pg_catalog.pg_class cls on cls.oid = c.oid
  join pg_catalog.pg_namespace ns on ns.oid = cls.relnamespace
  group by oid_ext
) cfg on cfg.oid_ext = e.oid
ORDER BY e.oid

-- DBeaver: extensions that could be. rows: 0
SELECT * FROM pg_catalog.pg_available_extensions ORDER BY name

-- DBeaver: event triggers. rows: 0
SELECT e.oid, e.*, n.nspname, p.proname, obj_description(e.oid, 'pg_event_trigger') as description
FROM pg_catalog.pg_event_trigger e
JOIN pg_catalog.pg_proc p ON p.oid = e.evtfoid
JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace ORDER BY e.evtname

-- DBeaver: foreign data. rows: 0
SELECT l.oid,l.*,p.pronamespace as handler_schema_id
FROM pg_catalog.pg_foreign_data_wrapper l
LEFT OUTER JOIN pg_catalog.pg_proc p ON p.oid=l.fdwhandler ORDER BY l.fdwname

-- DBeaver: rows: 0
SELECT l.* FROM pg_catalog.pg_foreign_server l ORDER BY l.srvname

-- DBeaver: rows: 0
SELECT * FROM pg_catalog.pg_user_mappings WHERE srvid=?table ORDER BY usename

-- DBeaver: jobs and sessions. rows: 0
SELECT sa.* FROM pg_catalog.pg_stat_activity sa WHERE sa.pid <> pg_backend_pid() AND sa.state IS NOT NULL

-- DBeaver: locks. rows: 0
SELECT l.locktype, l.pid, l.mode, l.granted FROM pg_catalog.pg_locks l JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid

-- DBeaver: the tables of a schema. has: every_type
SELECT c.oid,c.*,d.description,pg_catalog.pg_get_expr(c.relpartbound, c.oid) as partition_expr,
       pg_catalog.pg_get_partkeydef(c.oid) as partition_key
FROM pg_catalog.pg_class c
LEFT OUTER JOIN pg_catalog.pg_description d ON d.objoid=c.oid AND d.objsubid=0 AND d.classoid='pg_class'::regclass
WHERE c.relnamespace=?schema AND c.relkind not in ('i','I','c')

-- DBeaver: one table of a schema. rows: 1
-- has: every_type
SELECT c.oid,c.*,d.description,pg_catalog.pg_get_expr(c.relpartbound, c.oid) as partition_expr,
       pg_catalog.pg_get_partkeydef(c.oid) as partition_key
FROM pg_catalog.pg_class c
LEFT OUTER JOIN pg_catalog.pg_description d ON d.objoid=c.oid AND d.objsubid=0 AND d.classoid='pg_class'::regclass
WHERE c.relnamespace=?schema AND c.relkind not in ('i','I','c') AND c.relname=?name

-- DBeaver: sizes
SELECT c.oid,pg_catalog.pg_total_relation_size(c.oid) as total_rel_size,pg_catalog.pg_relation_size(c.oid) as rel_size
FROM pg_class c WHERE c.relnamespace=?schema

-- DBeaver: figures of a table. rows: 0
SELECT * FROM pg_catalog.pg_stat_user_tables WHERE relid=?table

-- DBeaver: columns. has: window_start, events, p50
SELECT c.relname,a.*,pg_catalog.pg_get_expr(ad.adbin, ad.adrelid, true) as def_value,dsc.description,dep.objid
FROM pg_catalog.pg_attribute a
INNER JOIN pg_catalog.pg_class c ON (a.attrelid=c.oid)
LEFT OUTER JOIN pg_catalog.pg_attrdef ad ON (a.attrelid=ad.adrelid AND a.attnum = ad.adnum)
LEFT OUTER JOIN pg_catalog.pg_description dsc ON (c.oid=dsc.objoid AND a.attnum = dsc.objsubid)
LEFT OUTER JOIN pg_depend dep on dep.refobjid = a.attrelid AND dep.deptype = 'i' and dep.refobjsubid = a.attnum and dep.classid = dep.refclassid
WHERE NOT a.attisdropped AND c.relkind not in ('i','I','c') AND c.oid=?table ORDER BY a.attnum

-- DBeaver: constraints. rows: 0
SELECT c.oid,c.*,t.relname as tabrelname,rt.relnamespace as refnamespace,d.description,
       case when c.contype='c' then "substring"(pg_get_constraintdef(c.oid), 7) else null end consrc_copy
FROM pg_catalog.pg_constraint c
INNER JOIN pg_catalog.pg_class t ON t.oid=c.conrelid
LEFT OUTER JOIN pg_catalog.pg_class rt ON rt.oid=c.confrelid
LEFT OUTER JOIN pg_catalog.pg_description d ON d.objoid=c.oid AND d.objsubid=0 AND d.classoid='pg_constraint'::regclass
WHERE c.conrelid=?table ORDER BY c.oid

-- DBeaver: who refers to it? rows: 0
SELECT DISTINCT c.oid,c.*,t.relnamespace
FROM pg_catalog.pg_constraint c JOIN pg_catalog.pg_class t ON t.oid=c.conrelid WHERE c.confrelid=?table

-- DBeaver: indexes. rows: 0
SELECT i.*,i.indkey as keys,c.relname,c.relnamespace,c.relam,c.reltablespace,tc.relname as tabrelname,dsc.description,
       pg_catalog.pg_get_expr(i.indpred, i.indrelid) as pred_expr,
       pg_catalog.pg_get_expr(i.indexprs, i.indrelid, true) as expr,
       pg_catalog.pg_relation_size(i.indexrelid) as index_rel_size,
       pg_catalog.pg_stat_get_numscans(i.indexrelid) as index_num_scans
FROM pg_catalog.pg_index i
INNER JOIN pg_catalog.pg_class c ON c.oid=i.indexrelid
INNER JOIN pg_catalog.pg_class tc ON tc.oid=i.indrelid
LEFT OUTER JOIN pg_catalog.pg_description dsc ON i.indexrelid=dsc.objoid
WHERE i.indrelid=?table ORDER BY tabrelname, c.relname

-- DBeaver: triggers. rows: 0
SELECT x.oid,x.*,p.pronamespace as func_schema_id,d.description
FROM pg_catalog.pg_trigger x
LEFT OUTER JOIN pg_catalog.pg_proc p ON p.oid=x.tgfoid
LEFT OUTER JOIN pg_catalog.pg_description d ON d.objoid=x.oid AND d.objsubid=0
WHERE x.tgrelid=?table AND NOT x.tgisinternal

-- DBeaver: rules. rows: 0
SELECT r.oid,r.*, pg_get_ruledef(r.oid) AS definition FROM pg_catalog.pg_rewrite r WHERE r.ev_class=?table AND r.rulename != '_RETURN'::name

-- DBeaver: policies. rows: 0
SELECT * FROM pg_catalog.pg_policies WHERE schemaname='public' AND tablename=?name

-- DBeaver: what it inherits from. rows: 0
SELECT i.*,c.relnamespace FROM pg_catalog.pg_inherits i,pg_catalog.pg_class c
WHERE i.inhrelid=?table AND c.oid=i.inhparent ORDER BY i.inhseqno

-- DBeaver: its partitions. rows: 0
SELECT c.relname,c.relnamespace,i.* FROM pg_catalog.pg_inherits i,pg_catalog.pg_class c WHERE i.inhparent=?table AND c.oid=i.inhrelid

-- DBeaver: grants. has: every_type
SELECT c.relname, c.relacl, c.relowner, pg_get_userbyid(c.relowner) FROM pg_catalog.pg_class c WHERE c.oid=?table

-- DBeaver: grants as the standard tells them. rows: 0
SELECT * FROM information_schema.table_privileges WHERE table_schema='public' AND table_name=?name

-- DBeaver: rows: 0
SELECT * FROM information_schema.column_privileges WHERE table_catalog=?database AND table_schema='public' AND table_name=?name

-- DBeaver: a view's text. rows: 1
SELECT pg_catalog.pg_get_viewdef(?table, true) as definition

-- DBeaver: options. rows: 1
SELECT reloptions FROM pg_catalog.pg_class WHERE oid=?table

-- DBeaver: sequences. rows: 0
SELECT * FROM pg_catalog.pg_sequences WHERE schemaname='public'

-- DBeaver: functions. rows: 0
SELECT p.oid as poid,p.*,pg_catalog.pg_get_expr(p.proargdefaults, 0) as arg_defaults,d.description
FROM pg_catalog.pg_proc p LEFT OUTER JOIN pg_catalog.pg_description d ON d.objoid=p.oid
WHERE p.prokind <> 'a' AND p.pronamespace=?schema ORDER BY p.proname

-- DBeaver: aggregates. rows: 0
SELECT p.oid,p.proname,a.* FROM pg_catalog.pg_aggregate a JOIN pg_catalog.pg_proc p ON p.oid = a.aggfnoid::oid WHERE p.pronamespace=?schema

-- DBeaver: what depends on it. rows: 0
SELECT DISTINCT dep.deptype, dep.classid, dep.objid FROM pg_catalog.pg_depend dep WHERE dep.refobjid=?table

-- DBeaver: its rows. has: ann, bob
SELECT x.* FROM public.every_type x

-- DBeaver: how many. has: 2
SELECT count(*) FROM public.every_type

-- pgAdmin connects
SET DateStyle=ISO

-- pgAdmin connects
SET client_min_messages=notice

-- pgAdmin connects
SELECT set_config('bytea_output','hex',false) FROM pg_show_all_settings() WHERE name = 'bytea_output'

-- pgAdmin connects
SET client_encoding='utf-8'

-- pgAdmin: has: Alluvium
SELECT version()

-- pgAdmin: the database. rows: 1
-- has: alluvium, UTF8
SELECT db.oid as did, db.datname, db.datallowconn, pg_encoding_to_char(db.encoding) AS serverencoding,
       has_database_privilege(db.oid, 'CREATE') as cancreate, datistemplate
FROM pg_catalog.pg_database db WHERE db.datname = current_database()

-- pgAdmin: rows: 1
SELECT gss_authenticated, encrypted FROM pg_catalog.pg_stat_gssapi WHERE pid = pg_backend_pid()

-- pgAdmin: who am I?
SELECT roles.oid as id, roles.rolname as name, roles.rolsuper as is_superuser,
       CASE WHEN roles.rolsuper THEN true ELSE roles.rolcreaterole END as can_create_role,
       CASE WHEN roles.rolsuper THEN true ELSE roles.rolcreatedb END as can_create_db,
       CASE WHEN 'pg_signal_backend'=ANY(ARRAY(WITH RECURSIVE cte AS (
         SELECT pg_roles.oid,pg_roles.rolname FROM pg_roles WHERE pg_roles.oid = roles.oid
         UNION ALL
         SELECT m.roleid,pgr.rolname FROM cte cte_1 JOIN pg_auth_members m ON m.member = cte_1.oid JOIN pg_roles pgr ON pgr.oid = m.roleid
       ) SELECT rolname FROM cte)) THEN True ELSE False END as can_signal_backend
FROM pg_catalog.pg_roles as roles WHERE rolname = current_user

-- pgAdmin: is it replicated? rows: 1
SELECT CASE WHEN (SELECT count(extname) FROM pg_catalog.pg_extension WHERE extname='bdr') > 0 THEN 'pgd'
            WHEN (SELECT COUNT(*) FROM pg_replication_slots) > 0 THEN 'log' ELSE NULL END as type

-- pgAdmin: the databases. has: alluvium
SELECT db.oid as did, db.datname as name, ta.spcname as spcname, db.datallowconn, db.datistemplate AS is_template,
       pg_catalog.has_database_privilege(db.oid, 'CREATE') as cancreate, datdba as owner, descr.description
FROM pg_catalog.pg_database db
LEFT OUTER JOIN pg_catalog.pg_tablespace ta ON db.dattablespace = ta.oid
LEFT OUTER JOIN pg_catalog.pg_shdescription descr ON (db.oid=descr.objoid AND descr.classoid='pg_database'::regclass)
ORDER BY datname

-- pgAdmin: the schemas. has: public
SELECT nsp.oid, nsp.nspname as name, pg_catalog.has_schema_privilege(nsp.oid, 'CREATE') as can_create,
       pg_catalog.has_schema_privilege(nsp.oid, 'USAGE') as has_usage, des.description
FROM pg_catalog.pg_namespace nsp
LEFT OUTER JOIN pg_catalog.pg_description des ON (des.objoid=nsp.oid AND des.classoid='pg_namespace'::regclass)
WHERE nspname NOT LIKE 'pg!_%' escape '!' ORDER BY nspname

-- pgAdmin: the tables. has: every_type
SELECT rel.oid, rel.relname AS name,
       (SELECT count(*) FROM pg_catalog.pg_trigger WHERE tgrelid=rel.oid AND tgisinternal = FALSE) AS triggercount,
       (SELECT count(*) FROM pg_catalog.pg_inherits WHERE inhrelid=rel.oid LIMIT 1) as is_inherits, des.description
FROM pg_catalog.pg_class rel
LEFT OUTER JOIN pg_catalog.pg_description des ON (des.objoid=rel.oid AND des.objsubid=0 AND des.classoid='pg_class'::regclass)
WHERE rel.relkind IN ('r','s','t','p') AND rel.relnamespace = ?schema AND NOT rel.relispartition ORDER BY rel.relname

-- DataGrip: when did it start? rows: 1
select round(extract(epoch from pg_postmaster_start_time() at time zone 'UTC')) as startup_time

-- DataGrip: where am I? has: alluvium
select current_database() as a, current_schemas(false) as b

-- DataGrip: the databases. has: alluvium
select N.oid::bigint as id, datname as name, D.description, datistemplate as is_template, datallowconn as allow_connections,
       pg_catalog.pg_get_userbyid(N.datdba) as "owner"
from pg_catalog.pg_database N left join pg_catalog.pg_shdescription D on N.oid = D.objoid
order by case when datname = pg_catalog.current_database() then -1::bigint else N.oid::bigint end

-- DataGrip: the schemas. has: public
select N.oid::bigint as id, N.xmin as state_number, nspname as name, D.description,
       pg_catalog.pg_get_userbyid(N.nspowner) as "owner"
from pg_catalog.pg_namespace N left join pg_catalog.pg_description D on N.oid = D.objoid
order by case when nspname = pg_catalog.current_schema() then -1::bigint else N.oid::bigint end

-- DataGrip: the oldest transaction. rows: 0
select L.transactionid::varchar::bigint as transaction_id from pg_catalog.pg_locks L
where L.transactionid is not null order by pg_catalog.age(L.transactionid) desc limit 1

-- DataGrip: this transaction. rows: 1
select case when pg_catalog.pg_is_in_recovery() then null else (pg_catalog.txid_current() % 4294967296)::varchar::bigint end as current_txid

-- DataGrip: zones
select name, is_dst from pg_catalog.pg_timezone_names
union distinct
select abbrev as name, is_dst from pg_catalog.pg_timezone_abbrevs

-- DataGrip: relations. has: every_type
select T.relkind as table_kind, T.relname as table_name, T.oid as table_id, T.xmin as table_state_number,
       T.relpersistence, pg_catalog.pg_get_userbyid(T.relowner) as "owner"
from pg_catalog.pg_class T where relnamespace = ?schema and relkind in ('r', 'm', 'v', 'f', 'p') order by table_kind, table_id

-- DataGrip: columns. has: window_start
select A.attnum as column_position, A.attname as column_name, A.atttypmod as type_mod, A.attnotnull as mandatory,
       pg_catalog.format_type(A.atttypid, A.atttypmod) as type_spec, A.attisdropped as column_is_dropped
from pg_catalog.pg_attribute A where A.attrelid = ?table and A.attnum > 0 order by attnum

-- Tableau connects
SET DateStyle='ISO'

-- Tableau: the schemas. has: public
select nspname from pg_namespace n order by nspname

-- Tableau, as the ODBC driver does: the tables. has: every_type
select relname, nspname, relkind from pg_catalog.pg_class c, pg_catalog.pg_namespace n
where relkind in ('r', 'v', 'm', 'f', 'p') and nspname not in ('pg_catalog', 'information_schema', 'pg_toast', 'pg_temp_1')
and n.oid = relnamespace order by nspname, relname

-- Tableau, as the ODBC driver does: the columns. has: window_start, timestamptz
select n.nspname, c.relname, a.attname, a.atttypid, t.typname, a.attnum, a.attlen, a.atttypmod, a.attnotnull, c.relhasrules,
       c.relkind, c.oid, pg_get_expr(d.adbin, d.adrelid), case t.typtype when 'd' then t.typbasetype else 0 end, t.typtypmod, 0,
       attidentity, c.relhassubclass
from (((pg_catalog.pg_class c inner join pg_catalog.pg_namespace n on n.oid = c.relnamespace and c.oid = ?table)
inner join pg_catalog.pg_attribute a on (not a.attisdropped) and a.attnum > 0 and a.attrelid = c.oid)
inner join pg_catalog.pg_type t on t.oid = a.atttypid)
left outer join pg_attrdef d on a.atthasdef and d.adrelid = a.attrelid and d.adnum = a.attnum
order by n.nspname, c.relname, attnum

-- Tableau: a table's extract. rows: 2
SELECT "every_type"."name" AS "name", SUM("every_type"."events") AS "sum:events:ok",
       DATE_TRUNC( 'DAY', CAST("every_type"."window_start" AS TIMESTAMP) ) AS "tdy:window_start:ok"
FROM "public"."every_type" "every_type" GROUP BY 1, 3
