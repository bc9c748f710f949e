"""Codes of workers, sessions, streams, the relay, the application and the proxy."""

SERVING = """
MPM-WORKER-01 | The worker lost its lease, and runs nothing more. | The client asks again; see
  MPM-WORKER-06.
MPM-WORKER-02 | A mistake of ours in the heartbeat; the worker begins anew. | Report it with the
  traceback.
MPM-WORKER-03 | The store did not say whether this worker was taken for dead. | Nothing: it goes on
  as a new worker.
MPM-WORKER-04 | A part did not end in time or failed at its end. | Nothing; what it held expires.
MPM-WORKER-05 | The store gives no new lease. | Bring the store back; it is tried again.
MPM-WORKER-06 | The process stood still, or had no store, for longer than its lease. | Give it more
  CPU, or raise `lease_seconds`.
MPM-WORKER-07 | The store does not note who reads streams of other workers. | As MPM-STORE-01; a
  call may end too soon meanwhile.
MPM-WORKER-08 | A task does not hear its cancellation. | Look for a blocking call in the
  application.
MPM-WORKER-09 | A part raised; what is to run on is begun again. | If it repeats, report it with the
  frames.
MPM-SESSION-01 | The session moved to another worker during the request. | Nothing: it is sent
  there.
MPM-SESSION-02 | The streams of a deleted session could not be ended. | Nothing: they expire.
MPM-SESSION-03 | The store did not say whether a session exists. | As MPM-STORE-01.
MPM-SESSION-04 | A session could not be stored, and ends with the process. | As MPM-STORE-01.
MPM-SESSION-05 | A principal has more than `max_sessions`, and the oldest stays. | Nothing: it
  expires.
MPM-SESSION-06 | A session subscribes to more resources than are kept. | Subscribe to fewer, or
  again after a restart.
MPM-SESSION-07 | A change of a session was not stored; a revival lacks it. | As MPM-STORE-01.
MPM-SESSION-08 | The deletion of a session was not stored. | The client is told to try again.
MPM-SESSION-09 | The application does not take an `initialize` that it took before. | Look why, in
  its log; the client begins a new session.
MPM-SESSION-10 | The application has other capabilities than before. | Nothing after a deployment;
  the client begins a new session.
MPM-SESSION-11 | How far a client had read is not known. | Nothing: events may come twice.
MPM-SESSION-12 | The session does not know its own stream. | As MPM-STORE-01.
MPM-SESSION-13 | The application does not open a revived session's stream. | Look at its log.
MPM-SESSION-14 | Two connections to a session's stream cannot take turns. | As MPM-STORE-01.
MPM-SESSION-15 | A session's stream cannot be continued; a new one begins. | As MPM-STORE-01.
MPM-SESSION-16 | Which worker asked a client for input was not stored. | As MPM-STORE-01; its
  answer may be refused by another worker.
MPM-SESSION-17 | Which session of a principal is the latest was not stored. | As MPM-STORE-01.
MPM-SESSION-18 | The store did not say which session of a principal is the latest; its request goes
  on without one. | As MPM-STORE-01.
MPM-STREAM-01 | Too many requests wait for streams that are not committed yet. | The client asks
  again; if it repeats, the store is too slow.
MPM-STREAM-02 | An event is larger than `max_event_bytes`. | Raise it, or send less.
MPM-STREAM-03 | A stream was ended because of MPM-STREAM-02. | As there.
MPM-STREAM-04 | Streams of dead workers could not be looked for. | As MPM-STORE-01; tried again.
MPM-STREAM-05 | A dead worker's stream cannot be read, and stays open. | As MPM-STORE-07; a worker
  that starts tries it again.
MPM-STREAM-06 | A mistake of ours at a dead worker's stream. | Report it with the traceback.
MPM-STREAM-07 | The application's body is not in its `Content-Encoding`. | Correct the layer that
  compresses.
MPM-STREAM-08 | More than `max_detached` calls, or `max_detached_of_one` of one caller, run without
  a client. | Raise it, or find who leaves calls behind.
MPM-STREAM-09 | A client cannot be served from the store. | As MPM-STORE-01; the client comes back.
MPM-STREAM-10 | Listens hear late of changes on other workers. | As MPM-STORE-01.
MPM-STREAM-11 | A caller has more than `max_listeners` open GET streams and listens. | Raise it, or
  look which client never closes them.
MPM-RELAY-01 | The store did not say which worker has a session. | As MPM-STORE-01.
MPM-RELAY-02 | The store did not say what became of a relayed request. | As MPM-STORE-01.
MPM-RELAY-03 | A request's credentials or user cannot travel to another worker. | Install the
  extra `relay` everywhere, or pass `relay_scope=`.
MPM-RELAY-04 | This worker's key could not be published. | As MPM-STORE-01.
MPM-RELAY-05 | `cryptography` is missing, and several workers share the store. | Install the extra
  `relay`, or set `session_routing="local"` behind sticky sessions.
MPM-RELAY-06 | Requests of other workers cannot be fetched. | As MPM-STORE-01.
MPM-RELAY-07 | What runs for other workers was not renewed. | As MPM-STORE-01.
MPM-RELAY-08 | The answer to a relayed request was never stored. | The client has got an error.
MPM-RELAY-09 | The answer to a relayed request is not stored yet. | As MPM-STORE-01; tried again.
MPM-APP-01 | The application raised. | Correct it; the traceback follows.
MPM-APP-02 | The application raised when a session's stream was opened again. | As MPM-APP-01.
MPM-APP-03 | The application raised when it was asked for its users. | As MPM-APP-01.
MPM-APP-04 | The `rerun` callable raised; the request is not run again. | Correct it.
MPM-APP-05 | The `expires` callable raised; the stream does not end with its authorisation.
  | Correct it.
MPM-APP-06 | The `tasks_for` callable raised; the call stays a call. | Correct it.
MPM-APP-07 | The `hand_back_for` callable raised; the call stays a call. | Correct it.
MPM-JOB-01 | A caller has too many tasks that run; another call stays a call. | Raise `max_jobs` or
  `max_jobs_in_all`, or look who begins so many.
MPM-JOB-02 | The store did not take a task; the call stays a call. | As MPM-STORE-01.
MPM-JOB-03 | A task cannot be looked up; its client is told to ask again. | As MPM-STORE-01.
MPM-JOB-04 | The store did not say whether a call was handed back before; the tool runs. | As
  MPM-STORE-01.
MPM-JOB-05 | A tool's result has a schema, which the word that it still runs would break. | Nothing,
  or leave the tool out of `hand_back_for`.
MPM-JOB-06 | The store is away, and a call with an idempotency key is not run. | As MPM-STORE-01.
MPM-JOB-07 | Nobody knows whose an idempotency key is; the call runs without it. | Pass
  `principal=`, or use sessions.
MPM-JOB-09 | The store did not take the answer of a deleted session's call. | As MPM-STORE-01; its
  client is told that it is not kept.
MPM-PROXY-01 | The upstream fails, or does what a proxy cannot repair. | The sentence says what.
MPM-PROXY-02 | A child process reads nothing. | Look why it blocks.
MPM-PROXY-03 | A child process broke the protocol or ended. | Look at its lines in the log.
MPM-PROXY-04 | A child asked or told something of no request. | Nothing, or correct the server.
MPM-PROXY-05 | The command of the proxy cannot be started. | Check its path and rights.
"""
