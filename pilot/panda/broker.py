"""Listens to a message broker (STOMP 1.2, ActiveMQ at CERN) for instructions about jobs and tasks.

::

    thread 'broker'   login (get_user_secrets) ── addresses behind the alias ── a connection to each ── waits, mends
    threads of stomp.py, one per connection:  frame ── parse ── hear(Instruction)

stomp.py is imported by the thread, so that a pilot that does not listen pays nothing, and one that lacks it goes on.
What it leaves open is closed here: frames have a largest size, a flood of messages is slowed down at its source (the
connection is simply read more slowly), a deaf broker has a time-out, and the end does not wait for anybody.
"""

from __future__ import annotations

import json
import logging
import queue
import socket
import threading
import time
from typing import TYPE_CHECKING, Any, Callable, NamedTuple, Optional

from pilot.common.exception import PilotException
from pilot.panda.errors import ServerRefusal
from pilot.util.backoff import Backoff

if TYPE_CHECKING:
    from pilot.settings_sections import MessageBrokerSection

logger = logging.getLogger(__name__)

TOPIC, QUEUE = "/topic/panda.pilot", "/queue/panda.pilot"
"""Known to the PanDA server: a topic is heard by every pilot, a message of a queue by one."""
SUBSCRIPTION = "atlas-pilot-messaging"
KINDS = ("get_job", "kill_task", "finish_task")
SECRETS = ("MB_USERNAME", "MB_PASSWORD")
"""Keys of get_user_secrets."""

_ANSWER_SECONDS = 10.0
_LARGEST_FRAME = 1024 * 1024
_PER_SECOND = 100
"""Messages that are read; more wait at the broker."""
_CLOSE_SECONDS = 2.0
_SOLID_SECONDS = 60.0
"""A connection that lasted longer was a good one: the pauses begin anew."""
_LOUD = 20
"""Ignored messages that are told one by one."""


class Instruction(NamedTuple):
    """What a message says; ``task`` is empty when it names none."""

    kind: str
    task: str


class Unavailable(Exception):
    """There will be no instructions in this pilot; the text says why and what to do."""


def parse(body: bytes | str) -> Instruction:
    """Return what a message asks for: ``{"msg_type": "get_job", "taskid": "123"}``.

    Raises:
        ValueError: it is none of ours, with the reason.
    """
    try:
        text = body.decode("utf-8") if isinstance(body, bytes) else body
        values = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError("it is not JSON") from None
    if not isinstance(values, dict):
        raise ValueError("it is no JSON object")
    kind, task = values.get("msg_type"), values.get("taskid")
    if kind not in KINDS:
        raise ValueError(f"msg_type {str(kind)[:40]!r} is unknown")
    if task in (None, ""):
        return Instruction(str(kind), "")
    words = str(task)
    if isinstance(task, bool) or not (words.isascii() and words.isdigit() and len(words) < 20):
        raise ValueError(f"taskid {words[:40]!r} is no number")
    return Instruction(str(kind), str(int(words)))


class BrokerListener:
    """One thread that keeps a connection to every broker behind the alias.

    Args:
        settings: section ``message_broker``.
        topic: listen to the topic, else to the queue.
        login: returns user name and password; ServerRefusal or Unavailable end the listening, others are repeated.
        hear: called with each instruction, in threads of its own; it must not block.
        linked: called with the number of connections whenever it changes.
        gone: called once, with the reason, when there will be no instructions.
        retry: shortest and longest pause (s) before another attempt.
    """

    def __init__(
        self, settings: MessageBrokerSection, *, topic: bool, login: Callable[[], tuple[str, str]],
        hear: Callable[[Instruction], None], linked: Callable[[int], None], gone: Callable[[str], None],
        retry: tuple[float, float] = (1.0, 60.0),
    ) -> None:
        self.settings = settings
        self.destination = TOPIC if topic else QUEUE
        self.stopping = threading.Event()
        self._login, self._linked, self._gone, self.hear = login, linked, gone, hear
        self._backoff = Backoff(max(retry[0], 0.01), max(*retry, 0.01))
        self._wakes: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._links: dict[str, _Link] = {}
        self._known: Optional[tuple[str, str]] = None
        self._thread = threading.Thread(target=self._run, name="broker", daemon=True)

    def start(self) -> None:
        """Begin; returns at once."""
        self._thread.start()

    def close(self) -> None:
        """Hang up; waits at most 2 s for a broker that does not answer."""
        self.stopping.set()
        self.wake()
        if self._thread.is_alive():
            self._thread.join(_CLOSE_SECONDS)

    def wake(self) -> None:
        """Let the thread look at its connections."""
        self._wakes.put(None)

    def _run(self) -> None:
        try:
            stomp = _load_library()
            while not self.stopping.is_set():
                self._pause(self._backoff.next() if self._mend(stomp) else None)
        except Unavailable as exc:
            logger.error("message broker: %s", exc)
            self._gone(str(exc))
        except Exception as exc:
            logger.exception("message broker: internal error")
            self._gone(f"{type(exc).__name__}: {exc}")
        finally:
            for link in self._links.values():
                link.close()

    def _pause(self, seconds: Optional[float]) -> None:
        """Wait until a connection is lost; with ``seconds`` as long as that, whatever happens."""
        if seconds is None:
            self._wakes.get()
        else:
            self.stopping.wait(seconds)

    def _mend(self, stomp: Any) -> bool:
        """Connect to each broker that has no connection; True when this has to be tried again, after a pause."""
        if self._drop_lost():
            return True  # one that hangs up at once must not be called again at once
        found = _addresses(self.settings.url, self.settings.receiver_port)
        if isinstance(found, str):
            logger.warning("message broker: %s", found)
            return True
        missing = [address for address in found if address not in self._links]
        for address in missing:
            if not self.stopping.is_set():
                self._connect(stomp, address)
        return any(address not in self._links for address in found)

    def _drop_lost(self) -> bool:
        lost = [address for address, link in self._links.items() if link.lost.is_set()]
        for address in lost:
            link = self._links.pop(address)
            link.close()
            logger.warning("message broker %s: the connection is lost: %s", address, link.why or "closed by the broker")
            if time.monotonic() - link.born > _SOLID_SECONDS:
                self._backoff.reset()
        if lost:
            self._linked(len(self._links))
        return bool(lost)

    def _connect(self, stomp: Any, address: str) -> None:
        try:
            user, password = self._known or self._login()
        except (Unavailable, ServerRefusal) as exc:
            text = exc.detail if isinstance(exc, ServerRefusal) else str(exc)
            raise Unavailable(f"no user name and password from the PanDA server: {text}") from None
        except PilotException as exc:
            logger.warning("message broker: user name and password cannot be had yet: %s", exc.detail)
            return
        self._known = (user, password)
        link = _Link(self, address)
        refusal = link.open(stomp, user, password)
        if refusal:
            link.close()
            self._known = None  # they may have been changed
            logger.warning("message broker %s, port %d: %s", address, self.settings.receiver_port, refusal)
            return
        self._links[address] = link
        logger.info("message broker %s, port %d: listening to %s", address, self.settings.receiver_port,
                    self.destination)
        self._linked(len(self._links))


class _Link:
    """One connection; stomp.py calls the methods ``on_...`` in the connection's own threads."""

    def __init__(self, broker: BrokerListener, address: str) -> None:
        self._broker, self._address = broker, address
        self.born = time.monotonic()
        self.lost = threading.Event()
        self.why = ""
        self._answered: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._connection: Any = None
        self._unread = self._ignored = self._read = 0
        self._since = 0.0

    def open(self, stomp: Any, user: str, password: str) -> str:
        """Connect, log in, subscribe. Returns what was wrong, empty when all is well."""
        settings = self._broker.settings
        beat = int(settings.heart_beat * 1000)
        self._connection = stomp.StompConnection12(
            [(self._address, settings.receiver_port)], prefer_localhost=False, try_loopback_connect=False,
            reconnect_attempts_max=1, reconnect_sleep_initial=0.0, timeout=_ANSWER_SECONDS, heartbeats=(beat, beat),
            keepalive=True, auto_decode=False)
        transport = self._connection.transport
        transport.override_threading(self._thread)
        self._bound(transport)
        self._connection.set_listener("pilot", self)
        try:
            self._connection.connect(user, password, wait=False, with_connect_command=True)
            refusal = self._answered.get(timeout=_ANSWER_SECONDS)
            if not refusal:
                # with a receipt: until the broker has it, messages of a topic pass us by
                self._connection.subscribe(self._broker.destination, id=SUBSCRIPTION, ack="auto",
                                           headers={"receipt": SUBSCRIPTION})
                refusal = self._answered.get(timeout=_ANSWER_SECONDS)
        except queue.Empty:
            return f"no answer in {_ANSWER_SECONDS:.0f} s"
        except (OSError, stomp.exception.StompException) as exc:
            return str(exc) or "no connection"
        return refusal

    def close(self) -> None:
        """Say good-bye and cut the connection; nobody is waited for."""
        connection = self._connection
        if connection is None:
            return
        try:
            if connection.transport.is_connected():
                connection.send_frame("DISCONNECT")
            connection.transport.disconnect_socket()
        except Exception as exc:  # noqa: BLE001 - a broken connection may break in many ways, and it is over anyway
            logger.debug("message broker %s: %s", self._address, exc)

    def _thread(self, work: Callable[[], None]) -> threading.Thread:
        thread = threading.Thread(target=work, name=f"broker {self._address}", daemon=True)
        thread.start()
        return thread

    def _bound(self, transport: Any) -> None:
        """Give frames a largest size: the library collects what comes until a frame is complete."""
        receive = transport.receive

        def bounded() -> Any:
            data = receive()
            self._unread += len(data or b"")
            if self._unread > _LARGEST_FRAME:
                self.why = f"a frame of more than {_LARGEST_FRAME} bytes"
                raise OSError(self.why)
            return data

        transport.receive = bounded

    def on_connected(self, _frame: Any) -> None:
        """The broker has accepted us."""
        self._unread = 0
        self._answered.put("")

    def on_receipt(self, _frame: Any) -> None:
        """The subscription stands."""
        self._unread = 0
        self._answered.put("")

    def on_error(self, frame: Any) -> None:
        """The broker refuses something; it hangs up next."""
        self.why = " ".join(_text(frame.headers.get("message") or frame.body).split())[:200] or "refused"
        self._answered.put(self.why)

    def on_heartbeat(self) -> None:
        """A sign of life."""
        self._unread = 0

    def on_heartbeat_timeout(self) -> None:
        """No sign of life; ``on_disconnected`` follows."""
        self.why = self.why or "no heart-beat"

    def on_disconnected(self) -> None:
        """The connection is over."""
        self.lost.set()
        self._answered.put(self.why or "the connection was closed")
        self._broker.wake()

    def on_message(self, frame: Any) -> None:
        """A message: hand it on, or say why it is ignored."""
        self._unread = 0
        self._slow_down()
        try:
            instruction = parse(frame.body)
        except ValueError as exc:
            self._ignored += 1
            if self._ignored <= _LOUD or self._ignored & (self._ignored - 1) == 0:
                logger.warning("message broker %s: message %d ignored: %s: %r", self._address, self._ignored, exc,
                               _text(frame.body)[:120])
            return
        self._broker.hear(instruction)

    def _slow_down(self) -> None:
        """Read at most so many messages per second: the rest waits in the socket, then at the broker."""
        now = time.monotonic()
        if now - self._since >= 1:
            self._since, self._read = now, 0
        self._read += 1
        if self._read > _PER_SECOND:
            self._broker.stopping.wait(1 - (now - self._since))


def _load_library() -> Any:
    try:
        import stomp  # type: ignore[import-untyped, unused-ignore]
        import stomp.exception
    except ImportError:
        raise Unavailable(
            "--subscribe-to-msgsvc needs the Python package stomp.py, which is not there: pip install "
            "'panda-pilot[messaging]', or lsetup stomp; jobs are asked for without instructions") from None
    logging.getLogger("stomp.py").setLevel(logging.CRITICAL)  # what matters is said here, once and without tracebacks
    return stomp


def _addresses(alias: str, port: int) -> list[str] | str:
    """Return the IPv4 addresses behind the alias, or what is wrong with it."""
    try:
        found = socket.getaddrinfo(alias, port, socket.AF_INET, socket.SOCK_STREAM)
    except (OSError, UnicodeError) as exc:
        return f"{alias!r} (setting message_broker.url) has no IPv4 address: {exc}"
    return list(dict.fromkeys(str(item[4][0]) for item in found))


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value or "")
