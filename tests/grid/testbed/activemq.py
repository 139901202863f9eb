"""A real message broker: Debian's ActiveMQ with a STOMP connector, in memory only, on one port of two addresses."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict
from xml.sax.saxutils import quoteattr

from tests.grid.testbed.service import MissingService, Service, free_port, listens, needs

JAR = Path("/usr/share/activemq/bin/activemq.jar")
USER, PASSWORD = "pilot", "word-of-the-broker"
HOSTS = ("127.0.0.1", "127.0.0.2")
"""Addresses behind one alias, as of several brokers that know each other."""
HEADERS = {"persistent": "true", "vo": "atlas"}
"""What the PanDA server sends with its messages (control-and-monitoring 13)."""

CONFIGURATION = """\
<beans xmlns="http://www.springframework.org/schema/beans" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"
 xsi:schemaLocation="http://www.springframework.org/schema/beans http://www.springframework.org/schema/beans/spring-beans-2.0.xsd
 http://activemq.apache.org/schema/core http://activemq.apache.org/schema/core/activemq-core.xsd">
 <broker xmlns="http://activemq.apache.org/schema/core" useJmx="false" persistent="false" brokerName="testbed"
  dataDirectory={data}>
  <plugins><simpleAuthenticationPlugin><users>
   <authenticationUser username={user} password={password} groups="users"/>
  </users></simpleAuthenticationPlugin></plugins>
  <transportConnectors>{connectors}</transportConnectors>
 </broker>
</beans>
"""


class ActiveMQ(Service):
    """Topics and queues for the user above."""

    name = "activemq"

    def __init__(self, directory: Path, bound: bool = True) -> None:
        super().__init__(directory, bound)
        self.port = 0

    def describe(self) -> Dict[str, str]:
        """Address and login."""
        return {"broker": f"stomp://{HOSTS[0]}:{self.port}", "login": f"{USER} / {PASSWORD}"}

    def _start(self) -> None:
        if not JAR.exists():
            raise MissingService("ActiveMQ is not installed here: 'make grid-packages' (as root) installs it")
        java, self.port = needs("java"), self.port or free_port()
        file, log = self.directory / "broker.xml", self.directory / "activemq.log"
        connectors = "".join(f'<transportConnector name="stomp{number}" uri="stomp://{host}:{self.port}"/>'
                             for number, host in enumerate(HOSTS))
        file.write_text(CONFIGURATION.format(data=quoteattr(str(self.directory)), user=quoteattr(USER),
                                             password=quoteattr(PASSWORD), connectors=connectors))
        places = [f"-Dactivemq.{name}={self.directory}" for name in ("base", "conf", "data")]
        process = self.launch([java, "-Xmx96m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1",
                               "-Dactivemq.home=/usr/share/activemq", *places, "-jar", str(JAR), "start",
                               f"xbean:file:{file}"], log)
        self.wait_until(lambda: listens(self.port), process, log)

    def client(self, host: str = HOSTS[0]) -> Any:
        """A connection that is logged in; close it with ``disconnect()``."""
        import stomp

        connection = stomp.StompConnection12([(host, self.port)], timeout=30)
        connection.connect(USER, PASSWORD, wait=True)
        return connection

    def send(self, destination: str, body: str, host: str = HOSTS[0], count: int = 1) -> None:
        """Send a message as the PanDA server does, and return when the broker has it."""
        import stomp

        client = self.client(host)
        waiting = stomp.WaitingListener("all-sent")
        client.set_listener("waiting", waiting)
        for number in range(count):
            last = {"receipt": "all-sent"} if number == count - 1 else {}
            client.send(destination, body, headers={**HEADERS, **last})
        waiting.wait_on_receipt()
        client.disconnect()
