import base64
from uuid import uuid4

import pytest

from shared.crypto import Keyring, Unsealable, new_root

ROOT = new_root()


class TestSealing:
    def test_what_is_sealed_comes_back(self):
        keys, tenant = Keyring.of_root(ROOT), uuid4()
        sealed = keys.seal(b"whsec", tenant_id=tenant, name="webhook")
        assert b"whsec" not in sealed
        assert keys.unseal(sealed, tenant_id=tenant, name="webhook") == b"whsec"

    def test_the_same_secret_is_never_sealed_alike(self):
        keys, tenant = Keyring.of_root(ROOT), uuid4()
        assert len({keys.seal(b"s", tenant_id=tenant, name="n") for _ in range(50)}) == 50

    def test_it_opens_for_its_owner_alone(self):
        keys, tenant = Keyring.of_root(ROOT), uuid4()
        sealed = keys.seal(b"s", tenant_id=tenant, name="webhook")
        for owner, name in ((uuid4(), "webhook"), (tenant, "token")):
            with pytest.raises(Unsealable):
                keys.unseal(sealed, tenant_id=owner, name=name)

    def test_any_changed_byte_is_noticed(self):
        keys, tenant = Keyring.of_root(ROOT), uuid4()
        sealed = keys.seal(b"s", tenant_id=tenant, name="n")
        for position in range(len(sealed)):
            changed = bytearray(sealed)
            changed[position] ^= 1
            with pytest.raises(Unsealable):
                keys.unseal(bytes(changed), tenant_id=tenant, name="n")
        with pytest.raises(Unsealable):
            keys.unseal(b"", tenant_id=tenant, name="n")

    def test_another_installation_cannot_open_it(self):
        tenant = uuid4()
        sealed = Keyring.of_root(ROOT).seal(b"s", tenant_id=tenant, name="n")
        with pytest.raises(Unsealable):
            Keyring.of_root(new_root()).unseal(sealed, tenant_id=tenant, name="n")


class TestRoot:
    @pytest.mark.parametrize("root", ["", "short", "not base64!", base64.b64encode(b"x" * 31).decode()])
    def test_a_weak_root_is_refused(self, root):
        with pytest.raises(ValueError, match="secret_key"):
            Keyring.of_root(root)

    def test_keys_are_not_shown(self):
        assert "b'" not in repr(Keyring.of_root(ROOT))
        assert len(Keyring.of_root(ROOT).mac(b"x")) == 32
