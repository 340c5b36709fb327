"""Roll the registered flow out as an Azure Web App, lead it back, and check that it answers.

The order: identity, its roles, image, secrets, plan, web app with its test.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory

from llmops import image, registration
from llmops.azure import roles, search_access, specification, webapp_specification, workspace
from llmops.azure.manager import Call, Json, manager, optional
from llmops.azure.registry import Registry
from llmops.azure.site import OURS, PRIOR, WEB, App, Site, config
from llmops.azure.specification import FLOW, SERVING
from llmops.azure.swap import Swap, ask
from llmops.azure.vault import Vault
from llmops.azure.webapp_specification import Case
from llmops.deploying.deployment import CONFIG
from llmops.deploying.endpoint_report import TIMES, report
from llmops.deploying.rolling import follow
from llmops.deploying.rollout import Found, Plan, Step, absent
from llmops.errors import UserError
from llmops.files import slug
from llmops.settings import Settings
from llmops.verdict import approval

REGISTRIES, GROUPS = "2023-07-01", "2021-04-01"
NEEDED = "'Contributor' on the web app's resource group and on the registry"
SHARED = {"F1", "D1"}
"""Sizes that cannot keep an app loaded."""


def deploy(settings: Settings) -> int:
    """Roll the registered flow out to the web app of ENV; with PLAN=1 only say what would change.

    2 if the web app does not become healthy or fails its test: then the previous image is back.

    Raises:
        UserError: something the user must fix, in the configuration or in Azure; or no approval.
    """
    case, registered = webapp_specification.read(settings), registration.load()
    approval.check(case.experiment, registered, settings)
    public, secret = webapp_specification.variables(case, registered)
    search = search_access.target(case.experiment, registered)
    search_access.check(search, registered)
    public = {**search_access.variables(search), **public}
    with TemporaryDirectory() as folder, _azure(case) as call:
        context = webapp_specification.context(case, registered, settings, Path(folder))
        needs = search_access.needs(case.where, search)
        work = Rollout(case, call, context, public, secret, needs, settings.wait_s)
        return follow(work, settings.plan)


def rollback(settings: Settings) -> int:
    """Put the image before the last deploy back, tested, with no approval; PLAN as above.

    Raises:
        UserError: as `deploy`, and where no image before is known.
    """
    case = webapp_specification.read(settings)
    with _azure(case) as call:
        site, app = _existing(case, call)
        if (prior := app.prior) is None:
            raise UserError(
                f"WEB_APP_NAME: '{site.name}' has had no image before {app.tag} (the app setting "
                f"{PRIOR} would name it). Check out the commit to go back to, then run "
                "`make experiment register deploy`."
            )
        return follow(Swap(case, site, app, prior, settings.wait_s), settings.plan)


def check(settings: Settings) -> int:
    """Send the sample request to the web app; 2 if an answer is not as it must be.

    Raises:
        UserError: as `deploy`.
    """
    case = webapp_specification.read(settings)
    with _azure(case) as call:
        site, app = _existing(case, call)
    return report(case, Found(site.name, url=app.url), {"": ask(case, app, TIMES)})


class Rollout:
    """Finds out what is there and what is to be done, and does it.

    `context` are the files of the image, `public` and `secret` the app settings, `needs` the roles
    that the identity needs besides those of every web app.
    """

    def __init__(
        self,
        case: Case,
        call: Call,
        context: Mapping[str, Path],
        public: Mapping[str, str],
        secret: Mapping[str, str],
        needs: Sequence[roles.Need],
        wait_s: float,
    ) -> None:
        self.case, self._call, self._wait_s, self._context = case, call, wait_s, context
        self._public, self._secret, self._more = public, secret, needs
        self._image = f"{slug(case.experiment.name).lower()}:{image.digest(dict(context))}"
        entry, where = case.entry, case.where
        group = entry.WEB_APP_RG_NAME
        self._plan_id = where.id("Microsoft.Web/serverfarms", entry.APP_PLAN_NAME, group)
        self._identity_id = specification.identity(entry.USER_MANAGED_ID, where, group)
        self._region = _region(case, call)
        self._registry = _registry(case, call)
        self._vault = _vault(case, call) if secret else None
        self._identity = optional(call, self._identity_id, roles.IDENTITIES)
        self._references: dict[str, str] = {}
        self._instances = 1
        self._site = _site(case, call)
        self._before = self._site.read()
        if self._before is None:
            self._site.check_name()

    @cached_property
    def plan(self) -> Plan:
        """What is there now, and what comes."""
        steps = (*self._first_steps(), *self._plan_step())
        instances = f"Instances: {self._instances} x {self.case.entry.WEB_APP_SKU} (the plan's)."
        return Plan((*steps, *self._swap.plan.steps), {}, {}, instances)

    def run(self) -> None:
        """Do every step; raises RejectedError where the web app fails its test."""
        doing = {
            "identity": self._make_identity,
            "roles": self._grant,
            "image": lambda: self._registry.build(self._image, self._context, self._wait_s),
            "secrets": self._write_secrets,
            "plan": self._put_plan,
            "web app": self._put_app,
        }
        for step in self.plan.steps:
            print(f"{step.what} {step.name}: {step.then} ...", flush=True)
            doing[step.what]()

    @property
    def done(self) -> str:
        """What runs now, and where."""
        return self._swap.done

    def _first_steps(self) -> Iterator[Step]:
        name = self._identity_id.rpartition("/")[2]
        if self._identity is None:
            yield Step("identity", name, "absent", "create")
            yield Step("roles", name, "absent", "grant what it needs")
        elif lacks := roles.missing(self.case.where, self._principal, self._needs):
            yield Step("roles", name, "incomplete", f"grant {', '.join(lacks)}")
        if not self._registry.has(self._image):
            how = "with Docker, push to" if self._registry.docker else "in"
            yield Step("image", self._image, "absent", f"build {how} {self._registry.server}")
        if self._vault:
            self._references = self._vault.find(self._secret)
            if stale := self._stale:
                then = f"write {', '.join(sorted(stale))}"
                yield Step("secrets", self._vault.name, "absent or other", then)

    def _plan_step(self) -> Iterator[Step]:
        name, size = self.case.entry.APP_PLAN_NAME, self.case.entry.WEB_APP_SKU
        found = optional(self._call, self._plan_id, WEB)
        if found is None:
            yield Step("plan", name, "absent", f"create: {size}, 1 instance, Linux")
            return
        if not found["properties"].get("reserved"):
            raise UserError(f"{CONFIG}: APP_PLAN_NAME: '{name}' is not a Linux plan. Take another.")
        self._region = str(found["location"])  # an app stands where its plan does
        now, self._instances = str(found["sku"]["name"]), int(found["sku"].get("capacity") or 1)
        if now.upper() != size.upper():
            yield Step("plan", name, now, f"change to {size}")

    @cached_property
    def _swap(self) -> Swap:
        return Swap(self.case, self._site, self._before, self._wanted, self._wait_s)

    @property
    def _wanted(self) -> App:
        """The web app as it shall be, as far as the identity and the secrets are known."""
        before = self._before
        full = f"{self._registry.server}/{self._image}"
        client = str(self._identity["properties"]["clientId"]) if self._identity else ""
        secret = self._references if self._vault else self._secret
        own = {**self._public, **secret, "AZURE_CLIENT_ID": client}
        notes = {OURS: ",".join(sorted(own))}
        if before and before.image != full:
            notes |= before.as_prior(FLOW, SERVING)
        elif before and PRIOR in before.settings:
            notes[PRIOR] = before.settings[PRIOR]
        settings = {**(before.foreign if before else {}), **own, **notes}
        runs = config(full, client, self.case.entry.WEB_APP_SKU.upper() not in SHARED)
        return App(self._region, self._plan_id, self._identity_id, runs, settings)

    @property
    def _principal(self) -> str:
        assert self._identity
        return str(self._identity["properties"]["principalId"])

    @property
    def _needs(self) -> list[roles.Need]:
        vault = [roles.Need(roles.VAULT_SECRETS, "keyVault")] if self._vault else []
        return [roles.Need(roles.PULL, self._registry.scope), *vault, *self._more]

    @property
    def _stale(self) -> dict[str, str]:
        """The secrets that the vault does not have."""
        return {n: text for n, text in self._secret.items() if not self._references[n]}

    def _grant(self) -> None:
        given = roles.grant(self.case.where, self._principal, self._needs)
        self._swap.granted = any(one.made for one in given)

    def _make_identity(self) -> None:
        body: Json = {"location": self._region}
        self._identity = self._call("PUT", self._identity_id, roles.IDENTITIES, body)

    def _write_secrets(self) -> None:
        assert self._vault
        self._references |= self._vault.write(self._stale)

    def _put_plan(self) -> None:
        body: Json = {
            "location": self._region,
            "kind": "linux",
            "sku": {"name": self.case.entry.WEB_APP_SKU, "capacity": self._instances},
            "properties": {"reserved": True},
        }
        self._call("PUT", self._plan_id, WEB, body)

    def _put_app(self) -> None:
        self._swap.wanted = self._wanted  # by now, all of it is known
        self._swap.run()


def _required(call: Call, path: str, version: str, key: str, make: str = "") -> Json:
    """A resource that must be there already; `key` names it, the command `make` creates it."""
    if (found := optional(call, path, version)) is None:
        group, name = path.split("/")[4], path.rpartition("/")[2]
        hint = f" Check the name and its resource group, or create it: {make}" if make else ""
        raise UserError(f"{key}: '{name}' does not exist (resource group '{group}').{hint}")
    return found


def _region(case: Case, call: Call) -> str:
    group = case.entry.WEB_APP_RG_NAME or case.where.resource_group
    path = f"/subscriptions/{case.where.subscription}/resourceGroups/{group}"
    return str(_required(call, path, GROUPS, f"{CONFIG}: WEB_APP_RG_NAME")["location"])


def _registry(case: Case, call: Call) -> Registry:
    name, group = case.entry.REGISTRY_NAME, case.entry.REGISTRY_RG_NAME or case.where.resource_group
    path = case.where.id("Microsoft.ContainerRegistry/registries", name, group)
    make = f"az acr create --sku Basic --name {name} --resource-group {group}"
    found = _required(call, path, REGISTRIES, f"{CONFIG}: REGISTRY_NAME", make)
    return Registry(path, str(found["properties"]["loginServer"]), call)


def _vault(case: Case, call: Call) -> Vault | None:
    """The vault of KEY_VAULT_NAME; null where none is named."""
    if not (name := case.where.key_vault):
        return None
    path = case.where.id("Microsoft.KeyVault/vaults", name)
    found = _required(call, path, roles.VAULTS, "KEY_VAULT_NAME")
    return Vault(name, str(found["properties"]["vaultUri"]).rstrip("/"), case.entry.WEB_APP_NAME)


def _site(case: Case, call: Call) -> Site:
    name, group = case.entry.WEB_APP_NAME, case.entry.WEB_APP_RG_NAME
    return Site(call, case.where.id("Microsoft.Web/sites", name, group))


def _existing(case: Case, call: Call) -> tuple[Site, App]:
    site = _site(case, call)
    if (app := site.read()) is None:
        raise absent(site.name, "WEB_APP_NAME")
    return site, app


@contextmanager
def _azure(case: Case) -> Iterator[Call]:
    """What sends requests to Resource Manager; its refusals, in words and without secrets."""
    try:
        with workspace.explained(case.where, NEEDED), manager() as call:
            yield call
    except UserError as error:
        raise UserError(case.mask(str(error))) from error
