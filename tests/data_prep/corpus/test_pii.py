"""What is masked and what stays, on lines written down with their right answer; and on texts where nothing should be found."""

from __future__ import annotations

import pytest
from hypothesis import given as drawn
from hypothesis import strategies as st

from data_prep.corpus import pii

# The mark is between ⟦ and ⟧; a line without brackets holds none.
GOLD = {
    "emails": """
Write to ⟦jane.doe@example.co.uk⟧.
⟦a+b_c@sub.domain.org⟧, ⟦x@y.io⟧; (⟦First.Last@firm-name.de⟧)
mailto:⟦info@museum.museum⟧?subject=hi
author: Ann <⟦ann@ann.dev⟧>
연락처: ⟦hong.gildong@naver.com⟧로 보내 주세요
git clone ⟦git@github.com⟧:some/repo
@property def f(self): pass
follow @someone on https://site.test/@name
pip install thing@1.2.3 and lodash@4.17.21
icon@2x.png and sprite@3x.jpg
user@localhost is no address
Kontakt: ⟦max.müller@straße.de⟧ oder ⟦büro@example.com.au⟧
"⟦quoted.name@mail.server.example⟧"; <⟦a@b.co⟧>, ⟦c-d@e-f.net⟧.
for x in ⟦team+news@company.travel⟧
⟦first_last%tag@sub-domain.example.info⟧!
a.b@c is none, nor @b.com, nor a@.com
scp file.txt host:/tmp and rev a1b2c3@HEAD
style.css@1.0.0 and main.js@hash.js
the price is 5@10 each, see §3@4
3 @ 5 dollars, me @ home . com
""",
    "ips": """
Connect to ⟦8.8.8.8⟧ or ⟦1.1.1.1⟧:53
from host ⟦93.184.216.34⟧
blocked address ⟦203.0.114.77⟧ at noon
log: ⟦185.199.108.153⟧ - - GET /
server ⟦151.101.1.69⟧/24
Version 1.2.3.4 was released
v2.10.3.14 and build 118.0.5993.70
numpy 1.2.3.4
Firefox/3.6.28.1 and Chrome/59.0.3071.115
Flash Player 10.1.53.64
Section 4.2.1.10 says
release 128.66.200.12
10.0.0.1, 192.168.1.254 and 127.0.0.1 are private
256.300.1.2 is no address and 1.2.3 is none
1.2.3.4.5 is an object identifier
resolve ⟦2606:4700:4700:0:0:0:0:1111⟧ now
the loopback ::1 and fe80::1 stay, 12:30:45 too
std::vector and a::b::c
DNS servers are ⟦9.9.9.9⟧ and ⟦208.67.222.222⟧.
traceroute to ⟦142.250.74.46⟧ (⟦142.250.74.46⟧), 30 hops
http://⟦104.16.132.229⟧/index.html
allow from ⟦52.94.236.248⟧;
ssh root@⟦45.33.32.156⟧
ping ⟦2a00:1450:4001:81b:0:0:0:200e⟧
172.16.5.4 and 169.254.1.1 and 0.0.0.0 stay, 224.0.0.1 too
OpenSSL v1.1.1.23, Chapter 3.14.15.92
Rev. 8.12.4.6; driver release 31.0.15.3623
dates such as 1.2.03.4 or 12.11.10.9 are lists
MAC 00:1A:2B:3C:4D:5E and time 10:20:30:40
""",
    "phones": """
Call ⟦(212) 555-7890⟧ today
fax ⟦415-555-2671⟧
⟦+44 20 7946 0958⟧ is in London
전화 ⟦02-123-4567⟧, 휴대폰 ⟦010-1234-5678⟧
⟦+82-10-1234-5678⟧
Tel.: ⟦030 901820⟧
phone ⟦206.555.0148⟧
⟦+1 (650) 253-0000⟧
mobile: ⟦07700 900123⟧
on 2013-08-21 and 12-11-2019
ISBN 978-0-306-40615-7
$1 250 000 and 3.14159265358979
version 2.10.3.14
order 1234567890123
123-456-789
from 1914-1918 to 1939-1945
0.5-0.75-1.25
RFC 5321, port 8080, year 2020 2021 2022
https://x.test/p/212-555-7890/a
fax machine 2000 was sold
Phone: ⟦(020) 7946 0123⟧ or ⟦1-800-555-0199⟧
Téléphone : ⟦01 23 45 67 89⟧
⟦+49 30 901820⟧, ⟦+33 1 23 45 67 89⟧ and ⟦+81-3-1234-5678⟧
call us at ⟦303-555-0147⟧.
고객센터 ⟦031-987-6543⟧ 로 문의
Mobile number ⟦0412 345 678⟧
+5 points, +10 000 people and +100 % more
chapters 100-200-300 and 12-34-5678
a score of 212-198, 1,234,567 votes
IBAN DE89 3704 0044 0532 0130 00
2010-2011, 555 people in 1980
GTIN 4006381333931 and 0-306-40615-2
연락처는 ⟦010-1234-5678⟧로, 사무실은 ⟦02)123-4567⟧입니다
⟦010.2345.6789⟧ 또는 ⟦010 3456 7890⟧, 문의 ⟦01045678901⟧
대표번호 ⟦1588-9999⟧, 인터넷 전화 ⟦070-4123-5678⟧, ⟦(031) 765-4321⟧
☎ ⟦051-234-5678⟧, 안심번호 ⟦0505-123-4567⟧
Tel. ⟦030/901820⟧, ⟦030 / 90 18 20⟧ oder ⟦089-1234567⟧
Handy: ⟦0171 1234567⟧ oder ⟦0176/12345678⟧, ⟦0160-98765432⟧
Telefon: ⟦(0711) 2345678⟧, Fax ⟦+49 (0)711 23456-79⟧
Rufnummer ⟦0049 30 901820⟧
1 2 3 4 5 6 7 8 9 10 11 12
call 1 2 3 4 5 6 7 8 and go
212 555 1234 310 444 2345 718 333 3456
임진왜란 1592-1598, 영국 1588-1603
0171 1234 5678 9012 3456 0222
12/2020, 03/2021 und 7/8 der Fälle
좌석 3 4 5 6 7 8 9 10번
로또 3, 11, 16, 19, 21, 27, 31
the ratio 0.25/0.75 and 050/100
""",
}


def lines(kind: str) -> list[tuple[str, list[str]]]:
    found = []
    for line in GOLD[kind].strip().split("\n"):
        marks = [part.split("⟧")[0] for part in line.split("⟦")[1:]]
        found.append((line.replace("⟦", "").replace("⟧", ""), marks))
    return found


INSTEAD = {"emails": pii.EMAIL, "phones": pii.PHONE}


@pytest.mark.parametrize("kind", pii.KINDS)
def test_precision_and_recall_on_lines_with_known_marks(kind: str, capsys) -> None:
    hit = wrong = lost = 0
    for line, marks in lines(kind):
        masked, counts = pii.mask(line, (kind,))
        left = [mark for mark in marks if mark in masked]
        hit, lost = hit + len(marks) - len(left), lost + len(left)
        wrong += counts.get(kind, 0) - (len(marks) - len(left))
        if not marks and counts:
            print(f"\nmasked for nothing: {line!r} -> {masked!r}")
        if left:
            print(f"\nnot masked: {line!r} -> {masked!r}")
    precision, recall = hit / (hit + wrong), hit / (hit + lost)
    with capsys.disabled():
        print(f"\n{kind}: precision {precision:.2f}, recall {recall:.2f} of {hit + lost}")
    assert precision >= 0.95 and recall >= 0.95
    assert len(lines(kind)) >= 20


def test_what_is_around_a_mark_stays_and_kinds_are_asked_for_one_by_one() -> None:
    text = "Ann <ann@ann.dev>, tel: +44 20 7946 0958, host 8.8.8.8, version 1.2.3.4"
    assert pii.mask(text, ("emails",)) == (text.replace("ann@ann.dev", pii.EMAIL), {"emails": 1})
    assert pii.mask(text, ()) == (text, {})
    masked, counts = pii.mask(text, pii.KINDS)
    assert masked == "Ann <email@example.com>, tel: 555-0100, host 192.0.2.1, version 1.2.3.4"
    assert counts == {"emails": 1, "ips": 1, "phones": 1}


@drawn(st.text(alphabet="ab1209.@:+-() /\nTel v", max_size=120))
def test_masking_twice_changes_nothing_more(text: str) -> None:
    once, _ = pii.mask(text, pii.KINDS)
    twice, _ = pii.mask(once, pii.KINDS)
    assert pii.mask(twice, pii.KINDS)[0] == twice  # a number beside a replaced one may become one


def test_long_runs_of_one_character_cost_linear_time() -> None:
    import time

    started = time.process_time()
    for run in ("1" * 200_000, "a." * 100_000, "1." * 100_000, "a@" * 100_000, ":" * 200_000, "+1 " * 70_000, "(0 " * 70_000):
        pii.mask(run, pii.KINDS)
    assert time.process_time() - started < 20


def test_running_text_without_marks_is_left_alone(json_lines) -> None:
    speeches = [row["text"] for row in json_lines("text/en/state-of-the-union.jsonl.gz")]
    masked = [pii.mask(text, pii.KINDS)[1] for text in speeches]
    assert sum(sum(counts.values()) for counts in masked) == 0
