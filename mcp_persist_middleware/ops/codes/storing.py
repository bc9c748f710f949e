"""Codes of the settings, the store, the log, Redis, wake-ups, copies and the command line."""

STORING = """
MPM-CORE-01 | Something could not be done that no other code names. | The sentence says what.
MPM-CORE-02 | The persistence object is used after `aclose()`. | Start it again, or open a new one.
MPM-CONFIG-01 | Settings do not fit together, or one is missing. | Change what the sentence names.
MPM-CONFIG-02 | An argument is no setting: misspelt, or of another version. | Take a name of
  [Settings](settings.md).
MPM-CONFIG-03 | A setting has a value that it cannot have. | Give what the sentence expects; it
  says whether the value comes from an argument or from the environment.
MPM-CONFIG-04 | The store's driver is not installed. | Install the extra that is named.
MPM-CONFIG-05 | A setting needs a package that is not installed. | Install the extra that is named.
MPM-CONFIG-06 | The server does not run on asyncio. | Let it: hypercorn with
  `--worker-class asyncio`, or uvicorn.
MPM-CONFIG-07 | `enabled` is false, and something asked for the store. | Set it to true, or do not
  ask.
MPM-CONFIG-08 | A variable `MCP_PERSIST_…` is no setting. | Correct its name, or leave it where
  it is of another package.
MPM-CONFIG-09 | The middleware is applied twice to one application. | Remove one; the inner one
  does nothing.
MPM-CONFIG-10 | Requests have credentials, and no layer says whose they are. | Pass `principal=`,
  or a client that renews its token cannot resume.
MPM-CONFIG-11 | The installed sse-starlette has another way to hear of a shutdown. | Install a
  version that this one supports; until then calls in flight end with SIGTERM.
MPM-CONFIG-12 | A parameter of the PostgreSQL URL has no meaning to the driver. | Remove it.
MPM-CONFIG-13 | A callable given as a setting returned what that setting cannot have. | Correct the
  callable; the default counts meanwhile.
MPM-CONFIG-14 | A server object was given the middleware, by its `add_middleware`. | Give it to the
  application: [Servers that are run by their framework](deployment.md).
MPM-STORE-01 | The store did not do what it was asked in time, or refused. | Look at the database
  named; `doctor` tries it.
MPM-STORE-02 | The store cannot be opened: host, rights, disk or password. | Do what the sentence
  ends with; `doctor` says whether it helped.
MPM-STORE-03 | A newer version has changed the schema. | Upgrade this worker, or give it another
  store.
MPM-STORE-04 | Older workers still run on a schema that is to be upgraded. | Stop them, then start
  this one.
MPM-STORE-05 | The database user may not change tables. | Let the owner run `schema upgrade`.
MPM-STORE-06 | A copy into this store is not complete. | Run the same `copy` to its end.
MPM-STORE-07 | A row cannot be read: a key is missing, or it is damaged. | Add the old key to
  `encryption_keys`, `keys check` says which; `schema verify` looks for damage.
MPM-STORE-08 | The store does not open, or a setting is wrong, and the server does not start. | See
  the code that follows it.
MPM-STORE-09 | A store of yours (`log=`) raised at the start. | Correct it; the frames follow.
MPM-STORE-10 | The store is not open, and requests are served without it. | Bring it back: it is
  tried again by itself. `on_store_failure="refuse"` refuses instead.
MPM-STORE-11 | The store is open after a failure. | Nothing.
MPM-STORE-12 | Events were written by a newer version. | Upgrade this worker.
MPM-STORE-13 | The database has damaged pages. | Check the disk; restore a backup, or let the
  store be made anew.
MPM-STORE-14 | Rows cannot be decrypted or decompressed. | Add the old key to `encryption_keys`,
  or install the extra of the codec.
MPM-STORE-15 | The SQLite file was deleted or replaced under a running server, which goes on with
  a new one; what was in the old one is not there. | Stop what deletes it.
MPM-STORE-16 | Retention could not remove what has expired. | Nothing if it passes: it is tried
  again. If not, look at the store.
MPM-STORE-17 | A store of yours (`log=`) lacks an optional method that something needs. | Add it,
  see [Custom stores](custom-store.md).
MPM-FEED-01 | `subscribe` was given what it cannot follow: a cursor of another store or of other
  streams, the name of no stream, or an unknown policy. | Give what the sentence names.
MPM-FEED-02 | The store does not answer, and a subscription waits for it. | As MPM-STORE-01; it
  goes on by itself where it was.
MPM-STORE-18 | `max_kept_streams`, `max_kept_bytes` or `max_store_bytes` is set, and the store
  cannot count what it has. | Add the method that is named to your store, or leave the setting out.
MPM-STORE-19 | What is too much in the store could not be removed. | Nothing if it passes: it is
  tried again. If not, look at the store.
MPM-LOG-01 | The store fails, and `store_timeout` has passed. | Bring the store back; streams are
  live meanwhile, without ids (`on_store_failure="refuse"`: requests get errors).
MPM-LOG-02 | The store takes events again. | Nothing.
MPM-LOG-03 | A commit failed and is tried again. | Nothing if it passes; else as MPM-STORE-01.
MPM-LOG-04 | One stream could not be stored, and its client cannot resume it. | The reason is in
  the sentence.
MPM-LOG-05 | A mistake of ours in the writer; its batch is given up. | Report it with the
  traceback.
MPM-JOURNAL-01 | Entries of the journal were lost: the store was away for long, or refused
  them. | Look at the store; requests do not wait for their journal.
MPM-JOURNAL-02 | The store did not take entries of the journal. | Nothing if it passes: they are
  tried again. If not, look at the store.
MPM-JOURNAL-03 | `journal=True`, and the store (`log=`) keeps no journal. | Give it one, see
  [Custom stores](custom-store.md), or leave the setting out.
MPM-REDIS-01 | Redis is away; events go to SQL. | Bring it back; the change is made by itself.
MPM-REDIS-02 | Redis is used again. | Nothing.
MPM-REDIS-03 | Redis cannot be used: rights, version or memory policy. | Do what the sentence
  ends with.
MPM-REDIS-04 | `INFO` is forbidden, so that the memory policy is not known. | Set `noeviction`,
  and allow `INFO`.
MPM-REDIS-05 | SQL is away while Redis takes events. | Bring it back before Redis is full.
MPM-REDIS-06 | A mistake of ours in the flush; it goes on. | Report it with the traceback.
MPM-REDIS-07 | Another worker took a stream over before its events were in SQL. | Nothing: its
  client was told. If it repeats, raise `lease_seconds`.
MPM-REDIS-08 | SQL refuses events that Redis took. | Look at the database's log.
MPM-REDIS-09 | Redis refuses relayed requests; they travel through SQL. | Allow the command that
  is named.
MPM-WAKE-01 | The store wakes no readers; they look by themselves, later. | Nothing if it passes;
  else allow a connection more (PostgreSQL: past a pooler).
MPM-WAKE-02 | Redis wakes no readers; they look by themselves. | Nothing if it passes; else allow
  its channels (`ACL SETUSER … &mcp_*`).
MPM-WAKE-03 | A mistake of ours in wake-ups; they begin anew. | Report it with the traceback.
MPM-COPY-01 | Source and target of a copy do not fit. | The sentence says which to change.
MPM-COPY-02 | A line of an export is damaged or of another format. | Export again.
MPM-COPY-03 | The file of an export cannot be opened, or not be written to its end. | Check its
  path, its rights and the room on its disk.
MPM-CLI-01 | No stream or session has this id here. | Check the id and `--namespace`.
MPM-CLI-02 | The text is no id. | Take one of `streams list`.
MPM-CLI-03 | The demo needs packages. | Install the extra `demo`.
MPM-CLI-04 | `tail --tool` needs the journal, and the store's is empty. | Let the servers keep one:
  `journal=True`.
"""
