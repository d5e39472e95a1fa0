"""The date of a scheduled run, in the schedule's time zone; one run at a time, whatever is killed."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from infra.errors import ConfigError
from pipelines.scheduled import claim, local_date
from pipelines.schedules import Timetable, interval

MINUTE = timedelta(minutes=1)


@pytest.mark.parametrize(
    ("zone", "day"),
    [
        ("America/New_York", "2026-11-01"),  # back at 02:00
        ("America/New_York", "2026-03-08"),  # forward at 02:00
        ("Europe/Berlin", "2026-10-25"),  # back at 03:00, offsets that fall
        ("Australia/Lord_Howe", "2026-04-05"),  # back by half an hour
        ("Asia/Seoul", "2026-11-01"),
        ("UTC", "2026-11-01"),
    ],
)
def test_dates_rise_with_time_and_none_comes_twice(zone: str, day: str) -> None:
    """A corpus that grows takes the last date before its own, so the order of texts must be that of moments."""
    start = datetime.fromisoformat(f"{day}T00:00").replace(tzinfo=ZoneInfo(zone)).astimezone(UTC)
    moments = [start + n * MINUTE for n in range(25 * 60)]
    dates = [local_date(moment, zone) for moment in moments]
    assert dates == sorted(set(dates))
    for moment, date in zip(moments, dates, strict=True):
        local = moment.astimezone(ZoneInfo(zone))
        assert date[:10] == local.date().isoformat()
        assert date[10:] == f"T{local:%H:%M}" or local.fold


def test_the_repeated_hour_follows_the_last_minute_before_it() -> None:
    first = datetime(2026, 11, 1, 5, 30, tzinfo=UTC)
    assert [local_date(first + n * timedelta(minutes=30), "America/New_York") for n in range(4)] == [
        "2026-11-01T01:30", "2026-11-01T01:59+01min", "2026-11-01T01:59+31min", "2026-11-01T02:00",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("zone", "start", "utc", "dates"),
    [
        # forward: there is no 02:30 on March 8, the run comes an hour earlier
        ("America/New_York", "2026-03-07", [7.5, 6.5, 6.5], ["2026-03-07T02:30", "2026-03-08T01:30", "2026-03-09T02:30"]),
        # back: 01:30 comes twice on November 1, the run once
        ("America/New_York", "2026-10-31", [5.5, 5.5, 6.5], ["2026-10-31T01:30", "2026-11-01T01:30", "2026-11-02T01:30"]),
        ("Asia/Seoul", "2026-10-31", [15.5, 15.5, 15.5], ["2026-10-31T00:30", "2026-11-01T00:30", "2026-11-02T00:30"]),
    ],
)
def test_cron_across_a_change_of_clocks(zone: str, start: str, utc: list[float], dates: list[str]) -> None:
    """What Prefect's scheduler makes of `30 H * * *`, and the dates that its runs get."""
    from prefect.client.schemas.schedules import CronSchedule
    from prefect.server.schemas.schedules import CronSchedule as Scheduler

    cron = f"30 {dates[0][11:13].lstrip('0') or '0'} * * *"
    CronSchedule(cron=cron, timezone=zone)  # what `deploy` sends
    since = datetime.fromisoformat(start).replace(tzinfo=ZoneInfo(zone))
    found = [moment.astimezone(UTC) for moment in asyncio.run(Scheduler(cron=cron, timezone=zone).get_dates(n=3, start=since))]
    assert [moment.hour + moment.minute / 60 for moment in found] == utc
    assert [local_date(moment, zone) for moment in found] == dates


def test_hourly_intervals_leave_out_the_repeated_hour() -> None:
    """As the guide says of Prefect's scheduler."""
    from prefect.server.schemas.schedules import IntervalSchedule

    start = datetime(2026, 11, 1, tzinfo=ZoneInfo("America/New_York"))
    schedule = IntervalSchedule(interval=timedelta(hours=1), timezone="America/New_York", anchor_date=start)
    found = [moment.astimezone(UTC) for moment in asyncio.run(schedule.get_dates(n=4, start=start))]
    assert [moment.hour for moment in found] == [4, 5, 7, 8]
    assert [local_date(moment, "America/New_York")[11:] for moment in found] == ["00:00", "01:00", "02:00", "03:00"]


def test_a_claim_ends_with_its_process_even_when_it_is_killed(tmp_path: Path) -> None:
    code = "import sys, time; from pathlib import Path; from pipelines.scheduled import claim; "
    code += "print(claim(Path(sys.argv[1]), 'nightly'), flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "True\n"
        assert not claim(tmp_path, "nightly") and claim(tmp_path, "weekly")
        other.send_signal(signal.SIGKILL)
        other.wait()
        assert claim(tmp_path, "nightly")


@pytest.mark.parametrize("text", ["", "6", "0h", "30s", "1.5h", "h", "-1h", "6 h"])
def test_intervals_are_checked(text: str) -> None:
    with pytest.raises(ConfigError, match="such as 30m, 6h or 1d"):
        interval(text)


def test_timetables_are_checked_before_a_server_is_asked() -> None:
    assert interval("90m") == timedelta(hours=1.5) and interval("2d") == timedelta(days=2)
    with pytest.raises(ConfigError, match=r"'Asia/Soul': unknown time zone; did you mean `Asia/Seoul`"):
        Timetable(("0 3 * * *",), (), "Asia/Soul")
    with pytest.raises(ConfigError, match="--cron .* or --interval"):
        Timetable((), (), "UTC")
    for zone in ("/etc/passwd", "../UTC", ""):
        with pytest.raises(ConfigError, match="unknown time zone"):
            Timetable(("0 3 * * *",), (), zone)
