"""A connection to an MQTT 5 broker that comes back by itself. Every name of aiomqtt and paho is in this file.

aiomqtt 2.5.1 acknowledges what it receives before anyone has seen it, drops what its queue does not hold, and hides
the reason codes of acknowledgements. So its paho client is spoken to directly for those three: acknowledging by hand,
receiving, publishing. ``tests/bus/test_client.py`` fails when an upgrade changes what that rests on.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import aiomqtt
import msgspec
import structlog
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from agent.bus.wire import HEADER_BYTES

KEEPALIVE = 15  # seconds
TIMEOUT = 5.0  # seconds an answer of the broker is waited for
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0  # seconds between two tries to connect
SETTLED = 30.0  # seconds after which a connection counts as a good one
# What may be under way to us unacknowledged, and from us.
RECEIVE = 32
IN_FLIGHT = 16
# What we take at most, properties included.
MAX_PACKET = 5 * 1024 * 1024
# Until a member of the group that has gone leaves its share to the others: long enough for a restart, and no longer,
# since some brokers go on sending it its share, which edges must then send again.
SESSION_EXPIRY = 15  # seconds
_MAX_EXPIRY = 2**32 - 1

_NO_MATCHING_SUBSCRIBERS, _UNSPECIFIED, _IMPLEMENTATION, _QUOTA = 0x10, 0x80, 0x83, 0x97
_TAKEN_OVER = 0x8E
_FAILURE = 0x80

log = structlog.get_logger()
_silent = logging.getLogger("mailvitals.mqtt")
_silent.disabled = True  # What it has to say comes as an exception as well.


class NotDelivered(Exception):
    """The broker has not taken a message, or nobody takes it from there; later it may."""


class Denied(Exception):
    """The broker will not take such a message from us."""


class TooLarge(Denied):
    """The broker takes no message of such a size."""


class Broker(msgspec.Struct, frozen=True):
    """Where the broker is and what proves us to it. Empty means without."""

    host: str
    port: int
    tls: bool = False
    username: str = ""
    password: str = ""
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""


class Incoming(msgspec.Struct, frozen=True, eq=False):
    """A message. It must be given to ``Client.acknowledge`` once it is done with."""

    topic: str
    payload: bytes
    properties: dict[str, str]
    qos: int
    mid: int
    link: Any


class _Link:
    """One connection, until it breaks."""

    def __init__(self, paho: Any) -> None:
        self.paho = paho
        self.window = asyncio.Semaphore(IN_FLIGHT)
        self.waiting: dict[int, asyncio.Future[Any]] = {}
        self.unacknowledged = 0
        self.broken = asyncio.Event()

    def end(self) -> None:
        self.broken.set()
        for future in self.waiting.values():
            if not future.done():
                future.set_exception(NotDelivered("the connection to the broker broke"))


class Client:
    """``run`` keeps the connection; everything else may be called at any time."""

    def __init__(
        self,
        broker: Broker,
        name: str,
        *,
        subscriptions: Sequence[str],
        receive: Callable[[Incoming], None],
        keep_session: bool,
        status_topic: str,
        needed_packet: int = 0,
        on_connect: Callable[[], None] = lambda: None,
        on_state: Callable[[bool], None] = lambda connected: None,
        rng: random.Random | None = None,
    ) -> None:
        """``name`` is the client id and must be this agent's own. ``receive`` is called on the event loop and must not
        raise. With ``keep_session`` the broker keeps what comes while we are away, for ``SESSION_EXPIRY``.
        ``needed_packet`` is the largest packet that the broker must take, in bytes."""
        self._broker = broker
        self._name = name
        self._subscriptions = tuple(subscriptions)
        self._receive = receive
        self._keep_session = keep_session
        self._status_topic = status_topic
        self._needed_packet = needed_packet
        self._on_connect = on_connect
        self._on_state = on_state
        self._rng = rng or random.Random()  # noqa: S311 - jitter
        self._link: _Link | None = None
        self.problem = "not connected yet"
        self.max_payload = math.inf  # bytes that the broker takes, as far as it has said so

    @property
    def connected(self) -> bool:
        """Whether the broker has taken us and our subscriptions."""
        return self._link is not None

    async def run(self) -> None:
        """Connect, and connect again, until cancelled."""
        pause = FIRST_PAUSE
        while True:
            began, problem = time.monotonic(), ""
            try:
                await self._connection()
            except (aiomqtt.MqttError, NotDelivered, Denied) as e:
                problem = str(e) or type(e).__name__
            except (OSError, ValueError) as e:  # Certificates, names.
                problem = f"{type(e).__name__}: {e}"
            if problem != self.problem:
                log.warning("bus.disconnected", reason=problem)
            self.problem = problem or "not connected"
            pause = FIRST_PAUSE if time.monotonic() - began > SETTLED else pause
            await asyncio.sleep(pause * self._rng.uniform(0.5, 1.0))
            pause = min(2 * pause, LONGEST_PAUSE)

    async def publish(
        self,
        topic: str,
        payload: bytes,
        properties: Mapping[str, str] | None = None,
        *,
        qos: int = 1,
        retain: bool = False,
        expiry: float = 0.0,
        needs_reader: bool = False,
    ) -> None:
        """Returns once the broker has acknowledged (with ``qos`` 0 once it is sent). ``expiry`` in seconds, 0 = never.
        With ``needs_reader`` a message that nobody subscribes to is not delivered. Raises ``NotDelivered`` or
        ``Denied``."""
        link = self._link
        if link is None:
            raise NotDelivered(self.problem)
        if len(payload) > self.max_payload:
            raise TooLarge(f"the broker takes no message of {len(payload)} bytes")
        about = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
        about.UserProperty = list((properties or {}).items())
        if expiry:
            about.MessageExpiryInterval = min(math.ceil(expiry), _MAX_EXPIRY)
        async with link.window:
            if link.broken.is_set():
                raise NotDelivered("the connection to the broker broke")
            info = link.paho.publish(topic, payload, qos, retain, about)
            if info.rc != 0:
                raise NotDelivered(f"not sent: {info.rc}")
            if qos == 0:
                return
            answer = link.waiting[info.mid] = asyncio.get_running_loop().create_future()
            try:
                async with asyncio.timeout(TIMEOUT):
                    code = await answer
            except TimeoutError:
                link.broken.set()  # Who does not acknowledge in time is as good as gone.
                raise NotDelivered("the broker did not acknowledge in time") from None
            finally:
                link.waiting.pop(info.mid, None)
        if code.value == _NO_MATCHING_SUBSCRIBERS and needs_reader:
            raise NotDelivered("nobody subscribes to what is published")
        if code.value in (_UNSPECIFIED, _IMPLEMENTATION, _QUOTA):
            raise NotDelivered(f"the broker answered: {code}")
        if code.value >= _FAILURE:
            raise Denied(f"the broker answered: {code}")

    def acknowledge(self, message: Incoming) -> None:
        """Tell the broker that it may forget a message. One of an earlier connection it brings again anyway."""
        link: _Link = message.link
        if message.qos and not link.broken.is_set():
            link.unacknowledged -= 1
            link.paho.ack(message.mid, 1)

    def leave(self) -> None:
        """Take no more messages; those under way may still be acknowledged."""
        link = self._link
        if link is None:
            return
        for topic in self._subscriptions:
            link.paho.unsubscribe(topic)  # What the broker has sent until it answers it brings again.

    async def _connection(self) -> None:
        broker = self._broker
        connect = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        connect.ReceiveMaximum = RECEIVE
        connect.MaximumPacketSize = MAX_PACKET
        connect.SessionExpiryInterval = SESSION_EXPIRY if self._keep_session else 0
        client = aiomqtt.Client(
            broker.host, broker.port, username=broker.username or None, password=broker.password or None,
            identifier=self._name, protocol=aiomqtt.ProtocolVersion.V5, logger=_silent,
            will=aiomqtt.Will(self._status_topic, b"offline", 1, retain=True),
            timeout=TIMEOUT, keepalive=KEEPALIVE, clean_start=not self._keep_session, properties=connect,
            tls_context=await asyncio.to_thread(_tls, broker) if broker.tls else None,
            max_inflight_messages=IN_FLIGHT,
        )  # fmt: skip
        paho: Any = client._client
        granted: dict[str, Any] = {}
        on_connect = paho.on_connect

        def connected(inner: Any, userdata: Any, flags: Any, code: Any, properties: Any = None) -> None:
            granted.update(properties.json() if properties else {})
            on_connect(inner, userdata, flags, code, properties)

        paho.on_connect = connected
        paho.manual_ack_set(True)
        link = _Link(paho)  # What waits in a session arrives before aiomqtt says that we are connected.
        paho.on_socket_register_write = _writer(link)

        def acknowledged(_: Any, __: Any, mid: int, code: Any, ___: Any = None) -> None:
            answer = link.waiting.get(mid)
            if answer and not answer.done():
                answer.set_result(code)

        paho.on_message = lambda _, __, message: self._received(link, message)
        paho.on_publish = acknowledged
        try:
            async with client:
                self._judge(granted)
                link.window = asyncio.Semaphore(min(IN_FLIGHT, granted.get("ReceiveMaximum", IN_FLIGHT)))
                self.max_payload = granted.get("MaximumPacketSize", math.inf) - HEADER_BYTES
                for topic in self._subscriptions:
                    for code in await client.subscribe(topic, qos=1):
                        if getattr(code, "value", code) >= _FAILURE:
                            raise Denied(f"the broker does not let us subscribe to {topic}: {code}")
                paho.publish(self._status_topic, b"online", 1, True)
                self._link, self.problem = link, ""
                log.info("bus.connected", broker=f"{broker.host}:{broker.port}", name=self._name)
                self._on_state(True)
                self._on_connect()
                try:
                    await self._until_broken(client, link)
                except asyncio.CancelledError:  # Who says goodbye leaves no will.
                    paho.publish(self._status_topic, b"offline", 1, True)
                    raise
        finally:
            if self._link:
                self._link = None
                self._on_state(False)
            link.end()
            if (gone := client._disconnected).done() and not gone.cancelled():
                gone.exception()  # Known by now; asyncio need not complain that nobody asked.

    async def _until_broken(self, client: aiomqtt.Client, link: _Link) -> None:
        async def listen() -> None:
            async for _ in client.messages:  # None comes this way; it raises when the connection breaks.
                pass

        listening, broken = asyncio.create_task(listen()), asyncio.create_task(link.broken.wait())
        try:
            await asyncio.wait((listening, broken), return_when=asyncio.FIRST_COMPLETED)
            if listening.done():
                raise NotDelivered(f"the connection to the broker broke{_why(client)}")
            raise NotDelivered("the broker did not acknowledge in time")
        finally:
            for task in (listening, broken):
                task.cancel()
            await asyncio.gather(listening, broken, return_exceptions=True)

    def _received(self, link: _Link, message: Any) -> None:
        if link.unacknowledged >= 2 * RECEIVE:
            return  # The broker sends more than we announced; what is not acknowledged it brings again.
        try:
            topic = message.topic
        except UnicodeDecodeError:
            return
        about = dict(getattr(message.properties, "UserProperty", ()))
        link.unacknowledged += message.qos > 0
        self._receive(Incoming(topic, bytes(message.payload), about, message.qos, message.mid, link))

    def _judge(self, granted: Mapping[str, Any]) -> None:
        """Raises ``Denied`` when the broker cannot do what we need of it (CONNACK, MQTT 5 section 3.2.2.3)."""
        shared = any(topic.startswith("$share/") for topic in self._subscriptions)
        if shared and granted.get("SharedSubscriptionAvailable", 1) == 0:
            raise Denied(
                "this broker has no shared subscriptions, which a core needs; see docs/mqtt.md for those that do"
            )
        if granted.get("MaximumQoS", 2) < 1:
            raise Denied("this broker has no QoS 1, without which messages are lost")
        if granted.get("RetainAvailable", 1) == 0:
            raise Denied("this broker keeps no retained messages")
        if granted.get("MaximumPacketSize", math.inf) < self._needed_packet:
            raise Denied(
                f"this broker takes packets of {granted['MaximumPacketSize']} bytes, {self._needed_packet} are needed"
            )


def _writer(link: _Link) -> Callable[[Any, Any, Any], object]:
    """Has the running loop write what paho has to send. aiomqtt lets it look for the number of the socket, which may be
    another connection's by the time the loop gets to it."""
    loop = asyncio.get_running_loop()

    def write() -> None:
        try:
            link.paho.loop_write()
        except Exception:  # A broken pipe, most of all.
            link.broken.set()

    def watch(sock: Any) -> None:
        try:
            if sock.fileno() >= 0:
                loop.add_writer(sock.fileno(), write)
        except (OSError, RuntimeError):  # Paho's thread has just closed it, and with it what the loop had of it.
            link.broken.set()

    # Paho connects in a thread of its own.
    return lambda _, __, sock: loop.call_soon_threadsafe(watch, sock)


def _why(client: aiomqtt.Client) -> str:
    """What the broker said at the end, if it did."""
    gone: Any = client._disconnected
    code = getattr(gone.exception() if gone.done() and not gone.cancelled() else None, "rc", None)
    value = getattr(code, "value", 0)
    if value == _TAKEN_OVER:
        return ": another agent has the same name"
    return f": {code}" if value > _UNSPECIFIED else ""


def _tls(broker: Broker) -> ssl.SSLContext:
    """Read anew for each connection: certificates are renewed. Raises ``OSError``."""
    context = ssl.create_default_context(cafile=broker.ca_file or None)
    if broker.cert_file:
        context.load_cert_chain(broker.cert_file, broker.key_file or None)
    return context
