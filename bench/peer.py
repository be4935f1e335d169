"""checkdmarc over the domains given, by the name server given; prints the seconds.

Runs in an environment of its own.
"""

from __future__ import annotations

import json
import sys
import time

import checkdmarc
from dns.nameserver import Do53Nameserver

if __name__ == "__main__":
    host, _, port = sys.argv[1].rpartition(":")
    begun = time.perf_counter()
    checkdmarc.check_domains(sys.argv[2:], nameservers=[Do53Nameserver(host, int(port))])
    print(json.dumps({"seconds": time.perf_counter() - begun}))
