"""What tests share: waiting with a deadline, the session's stores, and whole yards."""

from tests.support.polling import wait_until

__all__ = ["wait_until"]
