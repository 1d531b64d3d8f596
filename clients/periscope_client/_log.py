"""Messages of the client while it works. Python prints it on stderr unless the caller's logging says otherwise."""

from __future__ import annotations

import logging

logger = logging.getLogger("periscope_client")
