"""Policies by name: those of every domain, and the ones that learned in the dream of a domain's world.

`DOMAIN/NAME` is always one policy. The name alone does where one domain alone has it; `learned` alone is that of the
default world. Policies see observations only, so they drive a dream and the simulator alike.
"""

from __future__ import annotations

from pathlib import Path

from drivedit.agents.drive import Agent
from drivedit.agents.drivers.policy import Policy
from drivedit.config import DEFAULT_WORLD, all_domains, domain_of, find_domain
from drivedit.utils import load_object

LEARNED = "learned"  # the agent that learned in the dream (docs/agents.md)
WEIGHTS = Path(__file__).parents[1] / "weights"


def policy_names(domain: str | None = None) -> list[str]:
    """The names of all policies, or of a domain's, as short as they can be."""
    found = []
    for owner in all_domains() if domain is None else [domain]:
        for name in _names(owner):
            alone = owner == DEFAULT_WORLD if name == LEARNED else _owners(name) == [owner]
            found.append(name if alone else f"{owner}/{name}")
    return found


def policies_of(env_id: str) -> list[str]:
    """The names of the policies of the domain that an environment is of.

    Raises:
        ValueError: It is of no domain.
    """
    domain = domain_of(env_id)
    if domain is None:
        raise ValueError(f"{env_id} is of no domain that has policies: name those to judge, --policies NAME NAME NAME")
    return policy_names(domain.spec.domain)


def find_policy(name: str) -> tuple[str, str] | None:
    """Domain and own name of a policy; None: there is none of this name.

    Raises:
        ValueError: Several domains have it.
    """
    domain, _, own = name.rpartition("/")
    if own == LEARNED and not domain:
        domain = DEFAULT_WORLD
    owners = [owner for owner in _owners(own) if domain in ("", owner)]
    if len(owners) > 1:
        raise ValueError(f"several policies are called {name!r}: say {', '.join(f'{each}/{own}' for each in owners)}")
    return (owners[0], own) if owners else None


def make_policy(domain: str, name: str, seed: int) -> Agent:
    """A policy of a domain; the one that learned leaves nothing to chance.

    Args:
        domain: Name of the domain.
        name: Its own name, see `find_policy`.
        seed: Of its own chance.
    """
    if name == LEARNED:
        return Policy.load(weights_of(domain))
    return load_object(find_domain(domain).policies)[name](seed)


def weights_of(domain: str) -> Path:
    """Where the weights are of the agent that learned in the dream of a domain's world."""
    return WEIGHTS / f"{domain}.safetensors"


def _owners(name: str) -> list[str]:
    """The domains that have a policy of this name."""
    return [domain for domain in all_domains() if name in _names(domain)]


def _names(domain: str) -> list[str]:
    """The own names of a domain's policies."""
    path = find_domain(domain).policies
    return [*(load_object(path) if path else ()), *([LEARNED] if weights_of(domain).is_file() else ())]
