"""What every store promises (`ports.TaskStore`), on each adapter with its real database."""

import asyncio
import contextlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count, product

import pytest

from tesp_api.domain.errors import SlotTaken, Stale, StoreUnreachable
from tesp_api.domain.lifecycle import (
    ACTIVE,
    Broke,
    CancelAsked,
    Claimed,
    Event,
    ExecutorFailed,
    Killed,
    Lost,
    Outcome,
    Started,
    Submitted,
    Succeeded,
    Withdrawn,
    adopt,
    advance,
    forget,
    note,
)
from tesp_api.domain.task import DriverId, JobId, Task, TaskId
from tesp_api.domain.tes import ExecutorLog, OutputFileLog, State, TaskRequest, View
from tesp_api.domain.views import render
from tesp_api.ports import Glance, Query, TaskStore
from tests.contract.conftest import NewStore

BORN = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
ME, YOU = DriverId("driver-me"), DriverId("driver-you")
IDS = (TaskId(f"{number:024x}") for number in count(1))
"""Never twice in a run, and not in an order that sorting them would hide."""

ODD_STRINGS = (
    "",
    " ",
    "$where",
    "a.b",
    ".a",
    "$",
    "nul\x00inside",
    "\x00",
    "zwölf ☃ 𐀀",
    "\U0010ffff",
    "%",
    "_",
    "\\",
    "^.*$",
    "[a-z]+",
    "'; DROP TABLE task; --",
    '{"$gt": ""}',
    '"]',
    "line\nfeed",
)


def new_task(
    name: str | None = None, *, owner: str | None = None, tags: dict[str, str] | None = None
) -> Task:
    request = TaskRequest.model_validate(
        {"name": name, "tags": tags, "executors": [{"image": "ubuntu", "command": ["true"]}]}
    )
    return Task(
        id=TaskId(next(IDS)[::-1]),
        request=request,
        state=State.QUEUED,
        created_at=BORN,
        owner=owner,
    )


def rich_task() -> Task:
    """Everything a task can hold, so that nothing can get lost on the way without being missed."""
    request = TaskRequest.model_validate(
        {
            "name": "rich ☃",
            "description": 'with "quotes", \\ and\nline feeds',
            "inputs": [
                {"path": "/in/a", "content": "secret", "name": "a"},
                {"path": "/in/b", "content": ""},
                {"path": "/in/c", "url": "s3://bucket/c", "type": "DIRECTORY", "streamable": True},
            ],
            "outputs": [{"path": "/out/*.txt", "url": "/srv/out", "path_prefix": "/out"}],
            "resources": {
                "cpu_cores": 2,
                "ram_gb": 0.067,
                "zones": [],
                "backend_parameters": {"VmSize": "large"},
                "backend_parameters_strict": False,
            },
            "executors": [
                {"image": "a/b:c", "command": ["x", "", "$y"], "env": {"": "", "A.b": "$c"}},
                {"image": "d", "command": ["e"], "ignore_error": True, "stdin": "/in/a"},
            ],
            "volumes": ["/vol/a/"],
            "tags": {odd: odd for odd in ODD_STRINGS},
        }
    )
    return Task(id=TaskId(next(IDS)), request=request, state=State.QUEUED, created_at=BORN)


def moment(minute: int) -> datetime:
    return BORN + timedelta(minutes=minute)


def claimed(task: Task, slot: int, driver: DriverId = ME, job: str | None = None) -> Task:
    job_id = JobId(job or f"job-{task.id}-{task.revision}")
    return advance(task, Claimed(at=moment(1), job=job_id, slot=slot, driver=driver))


def told() -> Outcome:
    log = ExecutorLog(exit_code=3, start_time="2026-01-02T03:04:05Z", stdout="out", stderr="err ☃")
    sent = OutputFileLog(url="/srv/out/a.txt", path="/out/a.txt", size_bytes="12")
    return Outcome(executors=(log,), outputs=(sent,), log=("said",), metadata={"host": "node.1"})


def lives(task: Task, slot: int) -> Iterator[Task]:
    """A whole life with a second attempt: each revision in turn."""
    events: Sequence[Event] = (
        Submitted(at=moment(2)),
        Started(at=moment(3)),
        Lost(at=moment(4), reason="the node died"),
    )
    yield (task := claimed(task, slot))
    for event in events:
        yield (task := advance(task, event))
    yield (task := claimed(task, slot, YOU, "job-second"))
    yield (task := note(task, "a line"))
    yield (task := adopt(task, ME))
    yield (task := advance(task, ExecutorFailed(at=moment(6), outcome=told())))
    yield forget(task, *(job.id for job in task.jobs))


async def saved(store: TaskStore, task: Task, *events: Event) -> Task:
    for event in events:
        task = advance(task, event)
        await store.save(task)
    return task


async def claim(store: TaskStore, task: Task, slot: int, driver: DriverId = ME) -> Task:
    await store.add(task)
    task = claimed(task, slot, driver)
    await store.save(task)
    return task


def everything(view: View = View.FULL, limit: int = 1000) -> Query:
    return Query(view=view, limit=limit)


async def ids_of(store: TaskStore, query: Query) -> list[bytes]:
    """All pages of a list, as rendered MINIMAL documents."""
    query, found = replace(query, view=View.MINIMAL), list[bytes]()
    while True:
        page = await store.page(query)
        assert len(page.each) <= query.limit
        found += page.each
        if page.next_before is None:
            return found
        assert page.each, "a page that says there is more must bring the reader further"
        query = replace(query, before=page.next_before)


def minimal(tasks: Sequence[Task]) -> list[bytes]:
    return [render(task, View.MINIMAL) for task in tasks]


# A task and its revisions


async def test_a_task_comes_back_as_it_was_given(store: TaskStore) -> None:
    task = rich_task()
    await store.add(task)
    assert await store.get(task.id) == task


async def test_an_unknown_task_is_none(store: TaskStore) -> None:
    assert await store.get(TaskId("nobody")) is None
    assert await store.document(TaskId("nobody"), View.FULL, None) is None


async def test_adding_the_same_id_again_changes_nothing(store: TaskStore) -> None:
    first, second = new_task("first", tags={"a": "b"}), new_task("second")
    await store.add(first)
    await store.add(second)
    await store.add(first)
    moved = claimed(first, slot=1)
    await store.save(moved)
    await store.add(replace(first, request=second.request))
    assert await store.get(first.id) == moved
    assert await ids_of(store, everything()) == minimal([second, moved])


async def test_the_same_task_added_by_many_at_once_is_there_once(store: TaskStore) -> None:
    task = new_task(tags={"a": "b"})
    await asyncio.gather(*(store.add(task) for _ in range(20)))
    assert await ids_of(store, everything()) == minimal([task])


async def test_each_revision_of_a_whole_life_is_kept(store: TaskStore) -> None:
    task = rich_task()
    await store.add(task)
    for later in lives(task, slot=0):
        await store.save(later)
        assert await store.get(task.id) == later
        for view in View:
            assert await store.document(task.id, view, None) == render(later, view)


@pytest.mark.parametrize("view", View)
async def test_documents_and_pages_are_the_rendered_bytes(store: TaskStore, view: View) -> None:
    tasks = [new_task("plain"), rich_task(), *list(lives(rich_task(), slot=1))[-1:]]
    for task in tasks:
        await store.add(task)
    page = await store.page(everything(view))
    assert page.each == [render(task, view) for task in tasks[::-1]]
    assert page.joined == b",\n".join(page.each)
    assert page.next_before is None
    for task in tasks:
        assert await store.document(task.id, view, None) == render(task, view)


@pytest.mark.parametrize("step", [0, 2, 3])
async def test_saving_another_than_the_next_revision_is_stale(store: TaskStore, step: int) -> None:
    task = new_task()
    await store.add(task)
    wrong = replace(claimed(task, slot=5), revision=step)
    with pytest.raises(Stale):
        await store.save(wrong)
    assert await store.get(task.id) == task
    assert await store.slots() == frozenset()
    assert await store.document(task.id, View.FULL, None) == render(task, View.FULL)


async def test_saving_a_task_that_is_not_there_is_stale(store: TaskStore) -> None:
    with pytest.raises(Stale):
        await store.save(claimed(new_task(), slot=1))
    assert await ids_of(store, everything()) == []
    assert await store.slots() == frozenset()


async def test_of_many_who_save_the_same_revision_one_wins(store: TaskStore) -> None:
    task = new_task()
    await store.add(task)
    rivals = [claimed(task, slot=slot) for slot in range(12)]
    results = await asyncio.gather(*map(store.save, rivals), return_exceptions=True)
    winners = [rival for rival, result in zip(rivals, results, strict=True) if result is None]
    assert [type(result) for result in results if result is not None] == [Stale] * 11
    assert [await store.get(task.id)] == winners
    assert await store.slots() == {winners[0].slot}


async def test_a_large_task_comes_back_whole(store: TaskStore) -> None:
    noise = random.Random(7)
    content = "".join(chr(noise.randrange(32, 0x2FF)) for _ in range(400_000))
    request = TaskRequest.model_validate(
        {
            "inputs": [{"path": "/in", "content": content}],
            "executors": [{"image": "u", "command": ["x"]}],
        }
    )
    task = replace(new_task(), request=request)
    await store.add(task)
    assert await store.get(task.id) == task
    assert await store.document(task.id, View.FULL, None) == render(task, View.FULL)
    assert await store.queued(1) == [task]


async def test_logs_at_their_largest_can_be_saved(store: TaskStore) -> None:
    """A hundred executors with full tails: far beyond MongoDB's 16 MB before compression."""
    task = await claim(store, new_task(), slot=0)
    log = ExecutorLog(exit_code=0, stdout="o" * 65536, stderr="e" * 65536)
    done = await saved(
        store, task, Succeeded(at=moment(2), outcome=Outcome(executors=(log,) * 100))
    )
    assert await store.get(task.id) == done
    assert await store.document(task.id, View.FULL, None) == render(done, View.FULL)
    page = await store.page(everything(View.FULL))
    assert page.each == [render(done, View.FULL)]


# Slots


async def test_a_slot_is_held_once(store: TaskStore) -> None:
    first = await claim(store, new_task(), slot=3)
    second = new_task()
    await store.add(second)
    with pytest.raises(SlotTaken):
        await store.save(claimed(second, slot=3))
    assert await store.get(second.id) == second
    assert await store.get(first.id) == first
    assert await store.document(second.id, View.FULL, None) == render(second, View.FULL)
    assert await store.slots() == {3}


async def test_of_many_who_want_a_slot_one_gets_it(store: TaskStore) -> None:
    tasks = [new_task() for _ in range(12)]
    await asyncio.gather(*map(store.add, tasks))
    wanting = [claimed(task, slot=7) for task in tasks]
    results = await asyncio.gather(*map(store.save, wanting), return_exceptions=True)
    assert sorted(type(result).__name__ for result in results) == ["NoneType"] + ["SlotTaken"] * 11
    assert await store.slots() == {7}
    assert len(await store.queued(100)) == 11


async def patiently_saved(store: TaskStore, task: Task) -> None:
    """Save as the dispatcher does: FerretDB ends a save now and then to undo a deadlock."""
    for _ in range(5):
        with contextlib.suppress(StoreUnreachable):
            return await store.save(task)
    return await store.save(task)


async def test_a_refused_write_does_not_fail_its_neighbours(store: TaskStore) -> None:
    holder = await claim(store, new_task(), slot=0)
    waiting, old, known = new_task(), new_task(), new_task()
    await asyncio.gather(*map(store.add, (waiting, old, known)))
    fresh = [new_task() for _ in range(20)]
    results = await asyncio.gather(
        *map(store.add, fresh[:10]),
        patiently_saved(store, claimed(waiting, slot=0)),
        patiently_saved(store, replace(old, revision=5)),
        store.add(known),
        patiently_saved(store, advance(holder, Started(at=moment(2)))),
        *map(store.add, fresh[10:]),
        store.beat(ME),
        return_exceptions=True,
    )
    assert [type(result) for result in results[10:14]] == [SlotTaken, Stale, type(None), type(None)]
    assert results[:10] + results[14:] == [None] * 20 + [{ME: 1}]
    assert await store.queued(100) == [waiting, old, known, *fresh]


@pytest.mark.parametrize(
    "end",
    [
        Lost(at=moment(2), reason="gone"),
        Succeeded(at=moment(2)),
        Broke(at=moment(2), reason="broken"),
    ],
    ids=lambda event: type(event).__name__,
)
async def test_a_slot_is_free_when_its_task_ends_or_waits(store: TaskStore, end: Event) -> None:
    task = await claim(store, new_task(), slot=4)
    await saved(store, task, end)
    assert await store.slots() == frozenset()
    await claim(store, new_task(), slot=4)


async def test_a_slot_can_change_hands_while_many_write(store: TaskStore) -> None:
    task = await claim(store, new_task(), slot=1)
    following = new_task()
    await store.add(following)
    results = await asyncio.gather(
        store.save(advance(task, Succeeded(at=moment(2)))),
        store.save(claimed(following, slot=1)),
        return_exceptions=True,
    )
    assert results[0] is None
    if results[1] is not None:  # where the two went side by side, the second may have come first
        assert isinstance(results[1], SlotTaken)
        await store.save(claimed(following, slot=1))
    assert await store.slots() == {1}


async def test_slots_are_those_of_all_drivers(store: TaskStore) -> None:
    await claim(store, new_task(), slot=0, driver=ME)
    canceling = await claim(store, new_task(), slot=9, driver=YOU)
    await saved(store, canceling, CancelAsked(at=moment(2)))
    assert await store.slots() == {0, 9}


# Lists


async def test_lists_are_newest_first_in_the_order_of_adding(store: TaskStore) -> None:
    tasks = [new_task(str(number)) for number in range(25)]
    for task in tasks:
        await store.add(task)
    assert await ids_of(store, everything(limit=7)) == minimal(tasks[::-1])


async def test_all_of_many_added_at_once_are_kept_in_their_order(store: TaskStore) -> None:
    tasks = [new_task(tags={"n": str(number)}) for number in range(1500)]
    await asyncio.gather(*map(store.add, tasks))
    assert await ids_of(store, everything(limit=400)) == minimal(tasks[::-1])
    assert await store.queued(2000) == tasks
    assert await ids_of(store, replace(everything(), tags=(("n", "777"),))) == minimal(
        tasks[777:778]
    )


@pytest.mark.parametrize(("number", "limit"), [(0, 1), (3, 3), (4, 2), (1, 1), (5, 2047)])
async def test_the_last_page_says_so_even_where_it_is_full(
    store: TaskStore, number: int, limit: int
) -> None:
    tasks = [new_task() for _ in range(number)]
    for task in tasks:
        await store.add(task)
    query, left = everything(View.MINIMAL, limit), minimal(tasks[::-1])
    while len(left) > limit:
        page = await store.page(query)
        assert page.each == left[:limit]
        assert page.next_before is not None
        query, left = replace(query, before=page.next_before), left[limit:]
    last = await store.page(query)
    assert (last.each, last.next_before) == (left, None) or not left


@pytest.mark.parametrize("view", View)
async def test_a_page_does_not_deny_a_state_that_it_shows(store: TaskStore, view: View) -> None:
    task = await saved(store, await claim(store, new_task(), 1), CancelAsked(at=moment(2)))
    for _ in range(3):
        await store.add(new_task())
    page = await store.page(everything(view))
    assert not {task.state, State.QUEUED} & page.lacks
    assert any(task.state.encode() in document for document in page.each)


async def test_pages_are_stable_while_tasks_are_added(store: TaskStore) -> None:
    old = [new_task("old") for _ in range(60)]
    for task in old:
        await store.add(task)
    query, seen = everything(View.MINIMAL, limit=7), list[bytes]()
    while True:
        page, *_ = await asyncio.gather(
            store.page(query), *(store.add(new_task("new")) for _ in range(5))
        )
        seen += page.each
        if page.next_before is None:
            break
        query = replace(query, before=page.next_before)
    assert [one for one in seen if one in set(minimal(old))] == minimal(old[::-1])
    assert len(seen) == len(set(seen))


OWNERS = (None, "issuer|anna", "issuer|bert")
NAMES = (None, "", "a", "ab", "ab%", "ab_c", "abc", "AB", "a.c", "b", "ab\U0010ffff", "é", "ab\x00")
TAG_KEYS = ("k", "K", "k.1", "$k", "", "k\x00v", "ø")
TAG_VALUES = ("v", "", "v2", "V", "$v", "v\x00", "☃")


def some_tasks(chance: random.Random, number: int) -> list[Task]:
    def tags() -> dict[str, str]:
        keys = chance.sample(TAG_KEYS, chance.randrange(4))
        return {key: chance.choice(TAG_VALUES) for key in keys}

    return [
        new_task(chance.choice(NAMES), owner=chance.choice(OWNERS), tags=tags())
        for _ in range(number)
    ]


def some_life(chance: random.Random, task: Task, slot: int) -> Task:
    """The task somewhere on its way."""
    ways: Sequence[Sequence[Event]] = (
        (),
        (Withdrawn(at=moment(1)),),
        (Claimed(at=moment(1), job=JobId(task.id), slot=slot, driver=ME),),
        (
            Claimed(at=moment(1), job=JobId(task.id), slot=slot, driver=YOU),
            Submitted(at=moment(2)),
            Started(at=moment(3)),
            chance.choice(
                [
                    Succeeded(at=moment(4)),
                    ExecutorFailed(at=moment(4)),
                    Broke(at=moment(4), reason="no"),
                    CancelAsked(at=moment(4)),
                    Lost(at=moment(4), reason="lost"),
                ]
            ),
        ),
    )
    way = chance.choice(ways)
    for event in way[: chance.randint(0, len(way))]:
        task = advance(task, event)
    return task


def matches(task: Task, query: Query) -> bool:
    """The filters said once more, in the plainest way."""
    tags = task.request.tags or {}
    return (
        (query.owner is None or task.owner == query.owner)
        and (query.states is None or task.state in query.states)
        and (query.name_prefix is None or (task.request.name or "").startswith(query.name_prefix))
        and all(key in tags and value in {"", tags[key]} for key, value in query.tags)
    )


STATE_SETS = (
    None,
    frozenset({State.QUEUED}),
    frozenset({State.CANCELED, State.CANCELING, State.COMPLETE}),
    frozenset({State.PAUSED}),
    frozenset[State](),
    frozenset(State),
)
PREFIXES = (None, "", "a", "ab", "ab%", "ab_", "A", "a.", "ab\U0010ffff", "\U0010ffff", "é", "zz")
TAG_SETS = (
    (),
    (("k", ""),),
    (("k", "v"),),
    (("", ""),),
    (("k", "v"), ("k.1", "")),
    (("$k", "$v"), ("k", "")),
    (("k\x00v", ""), ("k", ""), ("ø", "")),
    (("nobody", "has"),),
)


async def test_every_combination_of_filters_chooses_the_right_tasks(store: TaskStore) -> None:
    chance = random.Random(20260102)
    tasks = some_tasks(chance, 150)
    lived = [some_life(chance, task, slot) for slot, task in enumerate(tasks)]
    for task in lived:
        await store.add(task)
    newest_first = lived[::-1]
    everyone = list(product(OWNERS, PREFIXES, STATE_SETS, TAG_SETS))
    for owner, prefix, states, tags in chance.sample(everyone, 400):
        query = Query(
            view=View.MINIMAL,
            limit=chance.choice([3, 50, 200]),
            owner=owner,
            name_prefix=prefix,
            states=states,
            tags=tags,
        )
        wanted = [task for task in newest_first if matches(task, query)]
        assert await ids_of(store, query) == minimal(wanted), query


@pytest.mark.parametrize("odd", ODD_STRINGS)
async def test_tags_and_names_may_hold_any_character(store: TaskStore, odd: str) -> None:
    other = "x" + odd
    task = new_task(other, tags={odd: odd, other: other})
    await store.add(new_task("y", tags={"plain": odd, other + odd: other}))
    await store.add(task)
    queries = [
        replace(everything(), tags=((odd, odd), (other, other))),
        replace(everything(), tags=((odd, ""),)),
        replace(everything(), name_prefix=other),
        replace(everything(), name_prefix=other, tags=((other, odd and other),)),
    ]
    for query in queries:
        found = await ids_of(store, query)
        assert render(task, View.MINIMAL) in found
        assert len(found) == 1 or matches(
            new_task("y", tags={"plain": odd, other + odd: other}), query
        )


@pytest.mark.parametrize("odd", ODD_STRINGS)
async def test_an_odd_id_finds_nothing(store: TaskStore, odd: str) -> None:
    await store.add(new_task())
    assert await store.get(TaskId(odd)) is None
    assert await store.document(TaskId(odd), View.MINIMAL, None) is None


# Owners


async def test_a_document_is_shown_to_its_owner_only(store: TaskStore) -> None:
    hers, nobodys = new_task(owner="issuer|anna"), new_task()
    await store.add(hers)
    await store.add(nobodys)
    for view in View:
        assert await store.document(hers.id, view, "issuer|anna") == render(hers, view)
        assert await store.document(hers.id, view, None) == render(hers, view)
        assert await store.document(hers.id, view, "issuer|bert") is None
        assert await store.document(nobodys.id, view, "issuer|bert") is None
        assert await store.document(nobodys.id, view, None) == render(nobodys, view)


async def test_a_list_for_an_owner_shows_nothing_of_others(store: TaskStore) -> None:
    hers = [new_task("x", owner="anna", tags={"a": "b"}) for _ in range(3)]
    others = [new_task("x", owner=owner, tags={"a": "b"}) for owner in ("ann", "annab", None)]
    for task in [*hers, *others]:
        await store.add(task)
    for filters in (
        everything(),
        replace(everything(), name_prefix="x"),
        replace(everything(), states=frozenset({State.QUEUED})),
        replace(everything(), tags=(("a", ""),)),
        replace(everything(), limit=1),
    ):
        found = await ids_of(store, replace(filters, owner="anna"))
        assert found == minimal(hers[::-1])


# What the dispatcher asks


async def test_queued_tasks_come_oldest_first(store: TaskStore) -> None:
    tasks = [new_task(str(number)) for number in range(6)]
    for task in tasks:
        await store.add(task)
    await store.save(claimed(tasks[0], slot=0))
    again = await saved(store, claimed(tasks[0], slot=0), Lost(at=moment(3), reason="lost"))
    await store.save(claimed(tasks[1], slot=1))
    assert await store.queued(3) == [again, *tasks[2:4]]
    assert await store.queued(100) == [again, *tasks[2:]]


async def test_driven_tasks_are_the_unfinished_claimed_ones(store: TaskStore) -> None:
    await store.add(new_task("waits"))
    mine = await claim(store, new_task(), slot=0)
    yours = await claim(store, new_task(), slot=1, driver=YOU)
    running = await saved(store, await claim(store, new_task(), slot=2), Started(at=moment(2)))
    await saved(store, await claim(store, new_task(), slot=3), Succeeded(at=moment(2)))
    lost = await saved(
        store, await claim(store, new_task(), slot=3), Lost(at=moment(2), reason="lost")
    )
    every = frozenset(State)

    def glance(task: Task) -> Glance:
        return Glance(id=task.id, state=task.state, driver=task.driver)

    assert await store.driven(None, every) == [glance(t) for t in (mine, yours, running, lost)]
    assert await store.driven(ME, every) == [glance(t) for t in (mine, running, lost)]
    assert await store.driven(YOU, every) == [glance(yours)]
    assert await store.driven(ME, frozenset({State.RUNNING})) == [glance(running)]
    assert await store.driven(DriverId("other"), every) == []
    assert await store.driven(None, frozenset()) == []
    await store.save(adopt(yours, ME))
    assert await store.driven(YOU, every) == []


async def test_untidy_tasks_are_paged_oldest_first_until_they_are_tidy(store: TaskStore) -> None:
    await claim(store, new_task("runs"), slot=99)
    await store.add(new_task("waits"))
    ended = [
        await saved(store, await claim(store, new_task(), slot=0), Succeeded(at=moment(2)))
        for _ in range(5)
    ]
    canceling = await saved(
        store, await claim(store, new_task(), slot=1), CancelAsked(at=moment(2))
    )
    canceled = await saved(store, canceling, Killed(at=moment(3)))
    wanted = [task.id for task in (*ended, canceled)]
    first = await store.untidy(4)
    rest = await store.untidy(4, first[-1][0])
    assert [task_id for _, task_id in (*first, *rest)] == wanted
    assert [seq for seq, _ in (*first, *rest)] == sorted(seq for seq, _ in (*first, *rest))
    assert await store.untidy(4, rest[-1][0]) == []
    await store.save(forget(ended[0], *(job.id for job in ended[0].jobs)))
    assert [task_id for _, task_id in await store.untidy(100)] == wanted[1:]


async def test_beats_are_counted_for_each_driver(store: TaskStore) -> None:
    assert await store.beat(ME) == {ME: 1}
    assert await store.beat(YOU) == {ME: 1, YOU: 1}
    assert await store.beat(ME) == {ME: 2, YOU: 1}
    await store.retire(YOU)
    await store.retire(DriverId("never heard of"))
    assert await store.beat(ME) == {ME: 3}


async def test_beats_at_once_are_all_counted(store: TaskStore) -> None:
    await asyncio.gather(*(store.beat(ME) for _ in range(25)))
    assert await store.beat(ME) == {ME: 26}


async def test_counts_are_of_states_and_owners_and_end_where_they_are_told_to(
    store: TaskStore,
) -> None:
    for owner in ("anna", "anna", "bert", None, None):
        await store.add(new_task(owner=owner))
    await claim(store, new_task(owner="anna"), slot=0)
    await ended(store, 1, new_task(owner="anna"))
    queued, unfinished = frozenset({State.QUEUED}), frozenset(ACTIVE)
    assert await store.count(queued, None, 100) == 5
    assert await store.count(unfinished, None, 100) == 6
    assert await store.count(queued, "anna", 100) == 2
    assert await store.count(unfinished, "anna", 100) == 3
    assert await store.count(unfinished, "nobody", 100) == 0
    assert await store.count(unfinished, "anna", 2) == 2
    assert await store.count(queued, None, 1) == 1


# Tasks that are not to be kept any longer


async def ended(
    store: TaskStore, minute: int, task: Task | None = None, *, tidy: bool = True
) -> Task:
    """A task that ended in that minute."""
    task = await claim(store, task or new_task(), slot=minute)
    task = await saved(store, task, Succeeded(at=moment(minute)))
    if tidy:
        task = forget(task, *(job.id for job in task.jobs))
        await store.save(task)
    return task


async def withdrawn(store: TaskStore, minute: int) -> Task:
    await store.add(task := new_task())
    return await saved(store, task, Withdrawn(at=moment(minute)))


async def test_only_what_ended_before_the_moment_and_is_tidy_is_removed(store: TaskStore) -> None:
    untidy = await ended(store, 1, tidy=False)
    waits, runs = new_task("waits"), await claim(store, new_task("runs"), slot=99)
    await store.add(waits)
    again = await saved(
        store, await claim(store, new_task(), slot=98), Lost(at=moment(1), reason="lost")
    )
    late = await ended(store, 6)
    old = [await ended(store, 4), await withdrawn(store, 2), await ended(store, 3)]
    assert await store.remove_ended(moment(6), 100) == 3
    assert await store.remove_ended(moment(6), 100) == 0
    assert [await store.get(task.id) for task in old] == [None] * 3
    kept = [untidy, runs, waits, again, late]
    assert sorted(await ids_of(store, everything())) == sorted(minimal(kept))
    await store.save(forget(untidy, *(job.id for job in untidy.jobs)))
    assert await store.remove_ended(moment(6), 100) == 1
    assert await store.get(untidy.id) is None


async def test_what_ended_first_is_removed_first_and_never_more_than_asked_for(
    store: TaskStore,
) -> None:
    tasks = {minute: await ended(store, minute) for minute in (5, 2, 4, 1, 3)}
    assert await store.remove_ended(moment(60), 2) == 2
    gone = [minute for minute, task in tasks.items() if await store.get(task.id) is None]
    assert sorted(gone) == [1, 2]
    assert await store.remove_ended(moment(60), 10) == 3
    assert await ids_of(store, everything()) == []


async def test_nothing_finds_a_removed_task_and_its_id_is_free(store: TaskStore) -> None:
    many = {f"k{number}": str(number) for number in range(1500)}
    task = replace(rich_task(), owner="anna")
    task = replace(
        task, request=task.request.model_copy(update={"tags": many | (task.request.tags or {})})
    )
    await ended(store, 1, task)
    other = new_task("rich too", owner="anna", tags={"k7": "7", "": ""})
    await store.add(other)
    assert await store.remove_ended(moment(2), 256) == 1
    assert await store.get(task.id) is None
    for view in View:
        assert await store.document(task.id, view, None) is None
    for filters in (
        everything(),
        replace(everything(), owner="anna"),
        replace(everything(), name_prefix="rich"),
        replace(everything(), tags=(("k7", "7"),)),
        replace(everything(), tags=(("", ""),)),
        replace(everything(), states=frozenset(State)),
    ):
        assert await ids_of(store, filters) == minimal([other]), filters
    assert await ids_of(store, replace(everything(), tags=(("nul\x00inside", ""),))) == []
    anew = replace(task, request=new_task("anew", tags={"a": "b"}).request)
    await store.add(anew)
    assert await store.get(task.id) == anew
    assert await ids_of(store, everything()) == minimal([anew, other])


async def test_a_walk_along_a_list_goes_on_while_tasks_are_removed(store: TaskStore) -> None:
    old = [await ended(store, minute % 3 + 1, new_task(str(minute))) for minute in range(20)]
    await store.add(waits := new_task("waits"))
    query, seen = everything(View.MINIMAL, limit=4), list[bytes]()
    while True:
        page = await store.page(query)
        seen += page.each
        if page.next_before is None:
            break
        await store.remove_ended(moment(60), 2)
        query = replace(query, before=page.next_before)
    assert len(seen) == len(set(seen))
    assert seen[0] == render(waits, View.MINIMAL)
    left = [task for task in old if await store.get(task.id) is not None]
    assert set(minimal(left)) <= set(seen)
    await store.add(later := new_task("later"))
    assert await ids_of(store, everything()) == minimal([later, waits, *left[::-1]])


async def test_a_removed_task_cannot_be_saved(store: TaskStore) -> None:
    task = await ended(store, 1)
    await store.remove_ended(moment(2), 1)
    with pytest.raises(Stale):
        await store.save(note(task, "too late"))
    assert await store.get(task.id) is None


# Opening and closing


async def test_all_is_there_after_reopening(new_store: NewStore) -> None:
    store = new_store()
    await store.open()
    hers = await claim(store, new_task("n", owner="anna", tags={"a": "b"}), slot=2)
    await store.beat(YOU)
    await store.close()
    again = new_store()
    await again.open()
    assert await again.get(hers.id) == hers
    assert await again.slots() == {2}
    later = new_task("n", owner="anna", tags={"a": "b"})
    await again.add(later)
    query = Query(view=View.MINIMAL, limit=9, owner="anna", name_prefix="n", tags=(("a", "b"),))
    assert await ids_of(again, query) == minimal([later, hers])
    assert await again.beat(ME) == {ME: 1, YOU: 1}
    await again.close()


async def test_opening_and_closing_may_be_repeated(new_store: NewStore) -> None:
    store = new_store()
    await store.open()
    await store.open()
    await store.add(new_task())
    await store.close()
    await store.close()
    await store.open()
    assert len(await store.queued(9)) == 1
    await store.close()


async def test_a_closed_store_is_unreachable(new_store: NewStore) -> None:
    store = new_store()
    task = new_task()
    with pytest.raises(StoreUnreachable):
        await store.add(task)
    await store.open()
    await store.close()
    for call in (
        store.get(task.id),
        store.save(claimed(task, slot=0)),
        store.document(task.id, View.FULL, None),
        store.page(everything()),
        store.queued(1),
        store.beat(ME),
        store.slots(),
        store.count(frozenset({State.QUEUED}), None, 1),
        store.remove_ended(BORN, 1),
    ):
        with pytest.raises(StoreUnreachable):
            await call


async def test_closing_finishes_writes_under_way(new_store: NewStore) -> None:
    store = new_store()
    await store.open()
    tasks = [new_task() for _ in range(300)]
    writes = [asyncio.ensure_future(store.add(task)) for task in tasks]
    await asyncio.sleep(0)
    await store.close()
    results = await asyncio.gather(*writes, return_exceptions=True)
    again = new_store()
    await again.open()
    kept = {task.id for task in await again.queued(1000)}
    await again.close()
    answered = {task.id for task, result in zip(tasks, results, strict=True) if result is None}
    assert answered <= kept
    assert {type(result) for result in results} <= {type(None), StoreUnreachable}


async def test_a_write_whose_caller_gave_up_harms_nobody(store: TaskStore) -> None:
    tasks = [new_task() for _ in range(50)]
    writes = [asyncio.ensure_future(store.add(task)) for task in tasks]
    await asyncio.sleep(0)
    for write in writes[::2]:
        write.cancel()
    await asyncio.gather(*writes, return_exceptions=True)
    await store.add(new_task())
    kept = {task.id for task in await store.queued(100)}
    assert {task.id for task in tasks[1::2]} <= kept
