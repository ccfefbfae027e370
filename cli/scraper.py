"""``tidegate scraper``: one of the processes that read the replicas' metrics of a site with a log in Kafka."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from broker.log_lines import configure_logging
from broker.model.errors import ConfigError
from cli.output import told_errors
from cli.site import HERE, kafka_of, only_secret

if TYPE_CHECKING:
    from broker.app.scraper import SharedScraper


def scraper(
    site: Annotated[Path, typer.Option("--site", envvar="TIDEGATE_SITE", help="The site file.")] = HERE,
) -> None:
    """Read the metrics of some of the replicas for a broker that leaves it to others, until SIGTERM or SIGINT.

    Start two or more, on any machines that reach Kafka and the replicas: they share the replicas, and take over from
    each other (docs/kafka.md). The site file says `scrape: {by: scrapers}`.

    The site's secret comes from the site file, or by environment: TIDEGATE_SITE_SECRET.
    """
    configure_logging(sys.stderr)
    from gateway import event_loop

    with told_errors():
        event_loop.run(_scraped(_made(site)))


def _made(path: Path) -> SharedScraper:
    from broker.app.scraper import SharedScraper
    from broker.app.settings import load_secrets, load_site, site_secret

    connection, layout = kafka_of(path)
    site = load_site(path)
    if site.scrape.by != "scrapers":
        problem = "the broker of this site scrapes by itself; set it to scrapers, and start the broker anew"
        raise ConfigError(problem, path=str(path), field="scrape.by")
    secret = site_secret(load_secrets(only_secret(site, "site_secret")))
    return SharedScraper(connection, layout, secret, site.scrape)


async def _scraped(scraper: SharedScraper) -> None:
    import asyncio

    from broker.stop_signals import set_on_stop_signals

    stop = asyncio.Event()
    set_on_stop_signals(stop)
    await scraper.run(stop)
