"""Have the user say yes to what moves much on mainnet."""

from __future__ import annotations

from picopayments_cli.client.session import Session
from picopayments_cli.errors import NotConfirmed


def check_consent(session: Session, what: str, quantity: int, asset: str, *, yes: bool) -> None:
    """Ask the user about a quantity (satoshis of the asset) above ``ask_above``, on mainnet. Raises NotConfirmed.

    ``what``: what is done with it, as in "send"; ``yes``: consent was given with the command.
    """
    limit = session.settings.ask_above
    if yes or quantity <= limit or session.network.name != "mainnet":
        return
    if session.ask is None:
        advice = "Nobody can be asked here: give --yes with the command, or raise ask_above in the settings."
    elif session.ask(f"{what.capitalize()} {quantity} satoshis of {asset}, on mainnet?"):
        return
    else:
        advice = "Nobody said yes."
    raise NotConfirmed(
        f"To {what} {quantity} satoshis of {asset} needs a yes, as it is more than {limit}. {advice} Nothing was done.",
        asset=asset,
        quantity=quantity,
        ask_above=limit,
    )
