"""Stories of parts: what an owner adds under a task of its own that is at work, the whole.

A part belongs to the attempt within which it was added. Each story is played by a coordinator that
dies after every decision as well.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

from coordinator.saga import events, resume
from coordinator.saga.leftovers import leftovers
from coordinator.saga.states import AttemptState, TaskState, WorkflowState
from tests.saga.language import ASK, EPOCH, Play, play, script, tree
from tests.saga.rows import Row, each, tells, tells_the_same_under_new_owners

ROWS = (
    # A part fails, or its whole does.
    Row(
        "a part that failed is for its owner to say what comes of it",
        "a:ext; b",
        "a:run+hang x:fail add-a-x@run:a say-a.1-fail@fail:x",
        "do:a run:a added:x do:x fail:x fail:a turn = COMPENSATED",
    ),
    Row(
        "its whole is tried again by policy, with other parts",
        "a:ext:retry=2; b",
        (
            "a:run+hang,run+hang x:ok add-a-x@run:a y:fail add-a-y@ok:x say-a.1-retriable@fail:y "
            "add-a-x2@run:a#2 end-a.2-ok@ok:x2"
        ),
        (
            "do:a run:a added:x do:x ok:x added:y do:y fail:y retry:a undo:x undone:x do:a run:a "
            "added:x2 do:x2 ok:x2 ok:a do:b ok:b = SUCCEEDED"
        ),
    ),
    Row(
        "the whole succeeds all the same: then its failure counts",
        "a:ext; b",
        "a:run+hang x:fail add-a-x@run:a end-a.1-ok@fail:x",
        "do:a run:a added:x do:x fail:x ok:a turn undo:a undone:a = COMPENSATED",
    ),
    Row(
        "an optional part never counts",
        "a:ext; b",
        "a:run+hang x:fail add-a-x:ignore@run:a end-a.1-ok@fail:x",
        "do:a run:a added:x do:x fail:x ok:a do:b ok:b = SUCCEEDED",
    ),
    Row(
        "a failed part of an earlier attempt is history",
        "a:ext:retry=2; b",
        "a:run+hang,run+ok x:fail add-a-x@run:a say-a.1-retriable@fail:x",
        "do:a run:a added:x do:x fail:x retry:a do:a run:a ok:a do:b ok:b = SUCCEEDED",
    ),
    Row(
        (
            "S-V27 in a workflow of a vendor's own a failed step counts at once, a failed part "
            "does not"
        ),
        "g(main:ext:ro:stop):open",
        "main:run+hang add-main-x:ro:stop@run:main x:run+fail add-g-y:stop@fail:x y:run+fail",
        (
            "do:main run:main added:x do:x run:x fail:x added:y do:y run:y fail:y ending "
            "cancel:main stopped:main = FAILED"
        ),
    ),
    Row(
        "a quorum that can do without the whole can do without a part of it",
        "(a:ext | c):min=1; b",
        "a:run+hang c:run+hang/ok x:fail add-a-x@run:a end-a.1-ok@fail:x end-c.1-ok@end",
        "do:a do:c run:a added:x do:x run:c fail:x ok:a do:b ok:b ok:c = SUCCEEDED",
    ),
    Row(
        "a round of the group begins when a part of a success has failed",
        "(a:ext | c):rounds=2; b",
        "a:run+hang,run+ok x:fail add-a-x@run:a end-a.1-ok@fail:x c:ok",
        (
            "do:a do:c run:a added:x do:x ok:c fail:x ok:a compensating:g1 undo:a undo:c undone:a "
            "undone:c forward:g1 again:a again:c do:a do:c run:a ok:a ok:c do:b ok:b = SUCCEEDED"
        ),
    ),
    Row(
        "a part of a part fails, and nobody takes it up before all of it has succeeded",
        "a:ext; b",
        (
            "a:run+hang x:run+hang add-a-x@run:a y:fail add-x-y@run:x end-x.1-ok@fail:y "
            "end-a.1-ok@ok:x"
        ),
        (
            "do:a run:a added:x do:x run:x added:y do:y fail:y ok:x ok:a turn undo:x undone:x "
            "undo:a undone:a = COMPENSATED"
        ),
    ),
    Row(
        "a part of a part fails, and what it is a part of fails with it",
        "a:ext; b",
        (
            "a:run+hang x:run+hang add-a-x:ignore@run:a y:fail add-x-y@run:x say-x.1-fail@fail:y "
            "end-a.1-ok@fail:x"
        ),
        "do:a run:a added:x do:x run:x added:y do:y fail:y fail:x ok:a do:b ok:b = SUCCEEDED",
    ),
    # What was done within an attempt that is over is made up for first.
    Row(
        "before the next attempt, however long that takes",
        "a:ext:retry=2; b",
        "a:run+hang,run+ok x:ok undo-x:run+wait+fail,ok add-a-x@run:a say-a.1-retriable@ok:x",
        (
            "do:a run:a added:x do:x ok:x retry:a undo:x un-run:x un-fail:x stuck:x BLOCKED "
            "undo:x undone:x freed do:a run:a ok:a do:b ok:b = SUCCEEDED"
        ),
    ),
    Row(
        "before the next attempt: a part that stops slowly",
        "a:ext:retry=2; b",
        "a:run+hang,run+ok x:run+hang/wait+ok add-a-x@run:a say-a.1-retriable@run:x",
        (
            "do:a run:a added:x do:x run:x retry:a cancel:x ok:x undo:x undone:x do:a run:a ok:a "
            "do:b ok:b = SUCCEEDED"
        ),
    ),
    Row(
        "before an optional task is gone on without",
        "a:ext:ignore; b",
        "a:run+hang x:ok undo-x:wait+ok add-a-x@run:a say-a.1-fail@ok:x",
        "do:a run:a added:x do:x ok:x fail:a undo:x undone:x do:b ok:b = SUCCEEDED",
    ),
    Row(
        "before what comes after others, too",
        "(a:ext:ignore | c | d<a,c)",
        (
            "a:run+hang x:ok undo-x:run+hang add-a-x@run:a say-a.1-fail@ok:x "
            "c:hang say-c.1-ok@undo:x say-x.2-ok@ok:c"
        ),
        "do:a do:c run:a added:x do:x ok:x fail:a undo:x ok:c undone:x do:d ok:d = SUCCEEDED",
    ),
    Row(
        "before a group is done with a member that it can spare",
        "(a:ext | c:ro):min=1; b",
        "a:run+hang x:ok undo-x:silent+hang add-a-x@run:a say-a.1-fail@ok:x done-x@ok:b",
        "do:a do:c run:a added:x do:x ok:c do:b ok:x fail:a undo:x ok:b asked undone:x = SUCCEEDED",
    ),
    Row(
        "before tasks that recover a group",
        "(a:ext | c){r}:recover; b",
        "a:run+hang x:ok undo-x:wait+ok add-a-x@run:a say-a.1-fail@ok:x c:ok",
        (
            "do:a do:c run:a added:x do:x ok:c ok:x fail:a recovering:g1 undo:x undone:x do:r "
            "ok:r recovered:g1 do:b ok:b = SUCCEEDED"
        ),
    ),
    Row(
        "in a round of its group",
        "(a:ext | c):rounds=2; b",
        "a:run+hang,run+ok x:ok undo-x:wait+ok add-a-x@run:a say-a.1-fail@ok:x c:ok",
        (
            "do:a do:c run:a added:x do:x ok:c ok:x fail:a compensating:g1 undo:x undo:c undone:c "
            "undone:x forward:g1 again:a again:c do:a do:c run:a ok:a ok:c do:b ok:b = SUCCEEDED"
        ),
    ),
    Row(
        "a later round begins as if they had not been",
        "(d | (a:ext; c)):max=1:rounds=2; b",
        "a:run+hang,run+ok x:ok add-a-x:ro@run:a say-a.1-fail@ok:x d:ok,run+wait+ok",
        (
            "do:d ok:d do:a run:a added:x do:x ok:x fail:a compensating:g2 undo:d undone:d "
            "forward:g2 again:d again:a again:c do:d run:d ok:d do:a run:a ok:a do:c ok:c do:b "
            "ok:b = SUCCEEDED"
        ),
    ),
    Row(
        "kept, where what was done is kept",
        "a:ext:stop; b",
        "a:run+hang x:ok add-a-x@run:a say-a.1-fail@ok:x",
        "do:a run:a added:x do:x ok:x fail:a ending = FAILED",
    ),
    Row(
        "one that does not stop at its time: it is stopped with its parts",
        "a:ext:runs=9:retry=2; b",
        "a:run+hang/cancelled,run+ok x:run+hang/cancelled add-a-x@run:a y:ok add-a-y@run:x",
        (
            "do:a run:a added:x do:x run:x added:y do:y ok:y cancel:a cancel:x retry:a undo:y "
            "stopped:x undone:y do:a run:a ok:a do:b ok:b = SUCCEEDED"
        ),
    ),
    Row(
        "nobody makes up for it: an operator does, and the next attempt begins",
        "a:ext:retry=2; b",
        (
            "a:run+hang,run+ok x:ok undo-x:silent+hang add-a-x@run:a say-a.1-retriable@ok:x "
            "done-x@BLOCKED"
        ),
        (
            "do:a run:a added:x do:x ok:x retry:a undo:x stuck:x BLOCKED asked undone:x freed "
            "do:a run:a ok:a do:b ok:b = SUCCEEDED"
        ),
    ),
    Row(
        "nobody makes up for it: it is given up, and the next attempt begins",
        "a:ext:retry=2; b",
        (
            "a:run+hang,run+ok x:ok undo-x:silent+hang add-a-x@run:a say-a.1-retriable@ok:x "
            "abandon-x@BLOCKED"
        ),
        (
            "do:a run:a added:x do:x ok:x retry:a undo:x stuck:x BLOCKED asked abandoned:x freed "
            "do:a run:a ok:a do:b ok:b = SUCCEEDED"
        ),
    ),
    Row(
        "nobody makes up for it: the workflow is cancelled",
        "a:ext:retry=2; b",
        (
            "a:run+hang x:ok undo-x:silent+hang add-a-x@run:a say-a.1-retriable@ok:x "
            "cancel@BLOCKED done-x@asked"
        ),
        (
            "do:a run:a added:x do:x ok:x retry:a undo:x stuck:x BLOCKED asked freed fail:a "
            "BLOCKED asked undone:x freed = COMPENSATED"
        ),
    ),
    Row(
        "a part of a part that failed, while the whole goes on",
        "a:ext; b",
        (
            "a:run+hang x:run+hang add-a-x:ignore@run:a y:ok add-x-y@run:x say-x.1-fail@ok:y "
            "end-a.1-ok@undone:y"
        ),
        (
            "do:a run:a added:x do:x run:x added:y do:y ok:y fail:x undo:y undone:y ok:a do:b "
            "ok:b = SUCCEEDED"
        ),
    ),
    Row(
        "before a group is done with what comes after a member that it can spare",
        "(a:ext | c:ro | d<a):min=1; b",
        "a:run+hang x:ok undo-x:wait+wait+ok add-a-x@run:a say-a.1-fail@ok:x",
        "do:a do:c run:a added:x do:x ok:c do:b ok:x fail:a undo:x ok:b undone:x = SUCCEEDED",
    ),
    Row(
        "what a part delays counts no more",
        "(a:ext:ignore | c):max=1; b",
        "a:run+hang x:ok add-a-x:ro:rest=5@run:a say-a.1-fail@ok:x",
        "do:a run:a added:x do:x ok:x fail:a do:c ok:c do:b ok:b = SUCCEEDED",
    ),
    Row(
        "the newest first: it may rest on those before it",
        "a:ext; b",
        "a:run+hang x:ok y:ok z:ok add-a-x@run:a add-a-y@ok:x add-a-z@ok:y say-a.1-fail@ok:z",
        (
            "do:a run:a added:x do:x ok:x added:y do:y ok:y added:z do:z ok:z fail:a turn undo:z "
            "undone:z undo:y undone:y undo:x undone:x = COMPENSATED"
        ),
    ),
    Row(
        "but those together that were at work at the same time",
        "a:ext; b",
        (
            "a:run+hang x:run+wait+ok y:run+wait+ok z:ok undo-x:wait+ok add-a-x@run:a "
            "add-a-y@added:x add-a-z@ok:x say-a.1-fail@ok:z"
        ),
        (
            "do:a run:a added:x do:x added:y do:y run:x run:y ok:y ok:x added:z do:z ok:z fail:a "
            "turn undo:z undone:z undo:y undo:x undone:y undone:x = COMPENSATED"
        ),
    ),
    Row(
        "once what may rest on it has stopped",
        "a:ext; b",
        "a:run+hang x:ok y:run+hang/wait+cancelled add-a-x@run:a add-a-y@ok:x say-a.1-fail@run:y",
        (
            "do:a run:a added:x do:x ok:x added:y do:y run:y fail:a turn cancel:y stopped:y "
            "undo:x undone:x = COMPENSATED"
        ),
    ),
    Row(
        "with what was added under those after it",
        "a:ext; b",
        (
            "a:run+hang x:run+hang y:ok z:ok u:ok add-a-x@run:a add-x-y@run:x add-x-z@ok:y "
            "say-x.1-ok@ok:z add-a-u@ok:x say-a.1-fail@ok:u"
        ),
        (
            "do:a run:a added:x do:x run:x added:y do:y ok:y added:z do:z ok:z ok:x added:u do:u "
            "ok:u fail:a turn undo:u undone:u undo:z undone:z undo:y undone:y undo:x undone:x = "
            "COMPENSATED"
        ),
    ),
    Row(
        "where all is kept, but what does not stop",
        "(a:ext | b:stop)",
        "a:run+hang/silent x:ok add-a-x@run:a b:wait+wait+fail undo-a:run+ok",
        (
            "do:a do:b run:a added:x do:x ok:x fail:b ending cancel:a undo:x undone:x lost:a "
            "undo:a un-run:a undone:a = FAILED"
        ),
    ),
    Row(
        "held in the middle",
        "a:ext:retry=2; b",
        (
            "a:run+hang,run+ok x:ok y:ok undo-y:silent+hang add-a-x@run:a add-a-y@ok:x "
            "say-a.1-retriable@ok:y pause-all@BLOCKED resume@asked done-y@asked#2"
        ),
        (
            "do:a run:a added:x do:x ok:x added:y do:y ok:y retry:a undo:y stuck:y BLOCKED asked "
            "pausing asked resumed BLOCKED asked undone:y undo:x freed undone:x do:a run:a ok:a "
            "do:b ok:b = SUCCEEDED"
        ),
    ),
    Row(
        "a task that waits before it begins waits after that",
        "a:ext:pause:wait=5; b",
        (
            "a:run+hang,run+ok x:ok undo-x:wait+wait+ok add-a-x@run:a say-a.1-fail@ok:x "
            "resume+rerun-a@pausing"
        ),
        (
            "wait:a do:a run:a added:x do:x ok:x fail:a pausing undo:x asked resumed asked "
            "again:a undone:x wait:a do:a run:a ok:a do:b ok:b = SUCCEEDED"
        ),
    ),
    Row(
        "a part that is given up gives up the workflow",
        "a:ext; b",
        "a:run+hang/cancelled x:run+lost+hang add-a-x@run:a abandon-x@lost:x",
        "do:a run:a added:x do:x run:x lost:x asked abandoned:x turn cancel:a stopped:a = FAILED",
    ),
    # Where the whole workflow goes back.
    Row(
        "parts before their whole",
        "a:ext; b",
        "a:run+wait+ok x:ok add-a-x@run:a b:fail",
        (
            "do:a run:a added:x do:x ok:x ok:a do:b fail:b turn undo:x undone:x undo:a undone:a = "
            "COMPENSATED"
        ),
    ),
    Row(
        "parts of parts before these",
        "a:ext; b",
        (
            "a:run+hang x:run+hang add-a-x@run:a y:ok add-x-y@run:x end-x.1-ok@ok:y "
            "end-a.1-ok@ok:x b:fail"
        ),
        (
            "do:a run:a added:x do:x run:x added:y do:y ok:y ok:x ok:a do:b fail:b turn undo:y "
            "undone:y undo:x undone:x undo:a undone:a = COMPENSATED"
        ),
    ),
    Row(
        "a whole that failed leaves nothing, but its parts did",
        "a:ext; b",
        "a:run+hang x:ok add-a-x@run:a say-a.1-fail@ok:x",
        "do:a run:a added:x do:x ok:x fail:a turn undo:x undone:x = COMPENSATED",
    ),
    Row(
        "a whole that is stopped, once it has",
        "a:ext | b",
        "a:run+hang/wait+cancelled x:ok add-a-x@run:a b:wait+fail",
        (
            "do:a do:b run:a added:x do:x ok:x fail:b turn cancel:a stopped:a undo:x undone:x = "
            "COMPENSATED"
        ),
    ),
    Row(
        "a whole that does not stop is made up for after its parts",
        "a:ext | b",
        (
            "a:run+hang/silent x:run+hang/cancelled add-a-x@run:a y:ok add-a-y@run:x "
            "b:wait+wait+fail undo-a:run+ok"
        ),
        (
            "do:a do:b run:a added:x do:x run:x added:y do:y ok:y fail:b turn cancel:a cancel:x "
            "undo:y stopped:x undone:y lost:a undo:a un-run:a undone:a = COMPENSATED"
        ),
    ),
    Row(
        "a whole that does not stop, nor do its parts",
        "a:ext | b",
        (
            "a:run+hang/silent x:run+hang/silent add-a-x@run:a y:ok add-a-y@run:x "
            "b:wait+wait+fail undo-a:run+ok undo-x:silent+run+wait+ok"
        ),
        (
            "do:a do:b run:a added:x do:x run:x added:y do:y ok:y fail:b turn cancel:a cancel:x "
            "undo:y lost:x undo:x undone:y stuck:x BLOCKED un-run:x freed undone:x lost:a undo:a "
            "un-run:a undone:a = COMPENSATED"
        ),
    ),
    Row(
        "a whole that does not stop says so after all, while its parts are made up for",
        "a:ext | b",
        (
            "a:run+hang/silent x:ok undo-x:run+hang add-a-x@run:a b:wait+wait+fail "
            "say-a.1-cancelled@un-run:x say-x.2-ok@stopped:a"
        ),
        (
            "do:a do:b run:a added:x do:x ok:x fail:b turn cancel:a undo:x un-run:x stopped:a "
            "undone:x = COMPENSATED"
        ),
    ),
    Row(
        "a whole that is awaited keeps its parts",
        "a:ext:await | b",
        "a:run+hang x:run+hang add-a-x@run:a b:wait+fail say-x.1-ok@turn end-a.1-ok@ok:x",
        (
            "do:a do:b run:a added:x do:x run:x fail:b turn ok:x ok:a undo:x undone:x undo:a "
            "undone:a = COMPENSATED"
        ),
    ),
    Row(
        "held with all compensations",
        "a:ext; b",
        "a:run+wait+ok x:ok add-a-x@run:a b:fail pause-all@turn resume@PAUSED",
        (
            "do:a run:a added:x do:x ok:x ok:a do:b fail:b turn undo:x asked pausing undone:x "
            "PAUSED asked turn undo:a undone:a = COMPENSATED"
        ),
    ),
    # Decisions.
    Row(
        "a whole is rerun, and its parts with it: no part alone",
        "a:ext:pause; b",
        (
            "a:run+hang,run+ok x:ok add-a-x@run:a y:fail add-a-y@ok:x say-a.1-fail@fail:y "
            "resume+rerun-y@PAUSED resume+rerun-a@refused"
        ),
        (
            "do:a run:a added:x do:x ok:x added:y do:y fail:y fail:a pausing undo:x undone:x "
            "PAUSED refused asked resumed asked again:a do:a run:a ok:a do:b ok:b = SUCCEEDED"
        ),
    ),
    Row(
        "a rerun waits until what was done before is made up for",
        "a:ext:pause; b",
        (
            "a:run+hang,run+ok x:ok undo-x:wait+ok add-a-x@run:a say-a.1-fail@ok:x "
            "resume+rerun-a@pausing"
        ),
        (
            "do:a run:a added:x do:x ok:x fail:a pausing undo:x asked resumed asked again:a "
            "undone:x do:a run:a ok:a do:b ok:b = SUCCEEDED"
        ),
    ),
    Row(
        "and takes no place from others meanwhile",
        "(a:ext:pause | c | d):max=1; b",
        "a:run+hang,run+ok x:ok undo-x:wait+wait+ok add-a-x@run:a say-a.1-fail@ok:x "
        "resume+rerun-a@pausing",
        "do:a run:a added:x do:x ok:x fail:a pausing undo:x asked resumed asked again:a do:c ok:c "
        "do:d ok:d undone:x do:a run:a ok:a do:b ok:b = SUCCEEDED",
    ),
    Row(
        "so does a skip",
        "a:ext:pause; b",
        "a:run+hang x:ok undo-x:wait+ok add-a-x@run:a say-a.1-fail@ok:x resume+skip-a@pausing",
        (
            "do:a run:a added:x do:x ok:x fail:a pausing undo:x asked resumed asked skip:a "
            "undone:x do:b ok:b = SUCCEEDED"
        ),
    ),
    Row(
        "a part of a success is skipped, and not rerun",
        "a:ext; b",
        (
            "a:run+hang x:fail add-a-x:pause@run:a end-a.1-ok@fail:x resume+rerun-x@PAUSED "
            "resume+skip-x@refused"
        ),
        (
            "do:a run:a added:x do:x fail:x ok:a pausing PAUSED refused asked resumed asked "
            "skip:x do:b ok:b = SUCCEEDED"
        ),
    ),
    Row(
        "or all of it is given up",
        "a:ext; b",
        "a:run+hang x:fail add-a-x:pause@run:a end-a.1-ok@fail:x resume+compensate-x@PAUSED",
        (
            "do:a run:a added:x do:x fail:x ok:a pausing PAUSED asked turn undo:a undone:a = "
            "COMPENSATED"
        ),
    ),
    Row(
        "its group is reset",
        "g(a:ext); b",
        "a:run+hang,run+ok x:fail add-a-x:pause@run:a end-a.1-ok@fail:x resume+reset-g@PAUSED",
        (
            "do:a run:a added:x do:x fail:x ok:a pausing PAUSED asked resumed asked "
            "compensating:g undo:a undone:a forward:g again:a do:a run:a ok:a do:b ok:b = "
            "SUCCEEDED"
        ),
    ),
    Row(
        "past a pivot somebody decides about a part",
        "p:pivot; a:ext; b",
        "a:run+hang x:fail add-a-x@run:a end-a.1-ok@fail:x resume+skip-x@PAUSED",
        (
            "do:p ok:p do:a run:a added:x do:x fail:x ok:a pausing PAUSED asked resumed asked "
            "skip:x do:b ok:b = SUCCEEDED"
        ),
    ),
    Row(
        "past a pivot a whole is tried again, with other parts",
        "p:pivot; a:ext; b",
        "a:run+hang,run+ok x:ok undo-x:wait+ok add-a-x@run:a say-a.1-fail@ok:x",
        (
            "do:p ok:p do:a run:a added:x do:x ok:x retry:a undo:x BLOCKED undone:x do:a run:a "
            "ok:a do:b freed ok:b = SUCCEEDED"
        ),
    ),
    Row(
        "a failure during a pause is the whole's",
        "a:ext; b",
        "a:run+hang x:run+fail add-a-x@run:a pause@do:x say-a.1-fail@fail:x resume+rerun-a@PAUSED",
        (
            "do:a run:a added:x do:x asked pausing run:x fail:x fail:a PAUSED asked resumed asked "
            "again:a do:a ok:a do:b ok:b = SUCCEEDED"
        ),
    ),
    Row(
        "compensations are held while it goes forward",
        "a:ext:retry=2; b",
        (
            "a:run+hang,run+ok x:ok add-a-x@run:a pause-all@ok:x say-a.1-retriable@pausing "
            "resume@PAUSED"
        ),
        (
            "do:a run:a added:x do:x ok:x asked pausing retry:a PAUSED asked resumed undo:x "
            "undone:x do:a run:a ok:a do:b ok:b = SUCCEEDED"
        ),
    ),
    # Closing by force.
    Row(
        "what is finished of a part that is closed stays",
        "a:ext; b",
        "a:run+hang x:run+hang add-a-x@run:a y:ok add-x-y@run:x close-a.1-ok@ok:y",
        (
            "do:a run:a added:x do:x run:x added:y do:y ok:y asked abandoned:x ok:a do:b ok:b = "
            "SUCCEEDED"
        ),
    ),
    Row(
        "a failure by force leaves nothing of the parts",
        "a:ext; b",
        "a:run+hang x:ok add-a-x@run:a y:run+hang add-a-y@ok:x close-a.1-fail@run:y",
        (
            "do:a run:a added:x do:x ok:x added:y do:y run:y asked abandoned:y fail:a turn undo:x "
            "undone:x = FAILED"
        ),
    ),
    Row(
        "S-H3 a group in which all that has begun is run anew has begun all the same",
        "h(g(a:ext:pause | z<a):max=1 | b):max=1",
        "a:run+hang x:run+hang/wait+cancelled add-a-x@run:a say-a.1-fail@run:x "
        "resume+rerun-a@pausing",
        "do:a run:a added:x do:x run:x fail:a pausing cancel:x asked resumed asked again:a "
        "stopped:x do:a ok:a do:z ok:z do:b ok:b = SUCCEEDED",
    ),
    # -- pauses
    Row(
        "S-A1 a pause waits for what is at work, and lets its parts begin",
        "a:ext | b",
        "a:run+hang b:ok x:run+ok add-a-x@pausing pause@run:a say-a.1-ok@ok:x resume@PAUSED",
        "do:a do:b run:a asked pausing added:x do:x ok:b run:x ok:x ok:a PAUSED asked resumed "
        "= SUCCEEDED",
    ),
    Row(
        "S-A1 a pause takes back no part of what is at work",
        "a:ext; b",
        "a:run+hang x:run+ok add-a-x@run:a pause@added:x say-a.1-ok@ok:x resume@PAUSED",
        "do:a run:a added:x do:x asked pausing run:x ok:x ok:a PAUSED asked resumed do:b ok:b "
        "= SUCCEEDED",
    ),
    Row(
        "S-R1 a part fails while a pause waits, and so does its whole",
        "a:ext; b",
        "a:run+hang x:fail add-a-x@pausing pause@run:a say-a.1-fail@fail:x resume+rerun-a@PAUSED",
        "do:a run:a asked pausing added:x do:x fail:x fail:a PAUSED asked resumed asked again:a "
        "do:a ok:a do:b ok:b = SUCCEEDED",
    ),
)


@pytest.mark.parametrize("row", each(ROWS))
def test_story(row: Row):
    tells(row)


@pytest.mark.parametrize("row", each(ROWS))
def test_story_under_new_owners(row: Row):
    """S-H3, S-V29."""
    tells_the_same_under_new_owners(row)


def test_what_a_resume_needs_names_the_whole_and_no_part_of_it():
    told = play("a:ext:pause; b", "a:run+hang x:fail add-a-x:pause@run:a say-a.1-fail@fail:x")
    a, x = (told.workflow.plan.by_name[name] for name in "ax")
    assert [each.task for each in resume.requirements(told.workflow)] == [a]
    alone = events.ResumeRequested(ask=ASK, choices=(events.Rerun(task=x),))
    [misfit, decision] = resume.violations(told.workflow, alone)
    assert misfit.message == (
        "x is a part of a and cannot be rerun alone: rerun a, whose owner adds its parts anew."
    )
    assert decision.task == a


def test_of_a_success_with_a_failed_part_the_part_is_decided():
    told = play("a:ext; b", "a:run+hang x:fail add-a-x:pause@run:a end-a.1-ok@fail:x")
    x = told.workflow.plan.by_name["x"]
    [needed] = resume.requirements(told.workflow)
    assert needed.task == x
    assert needed.message.endswith("Decide: skip or compensate.")
    alone = events.ResumeRequested(ask=ASK, choices=(events.Rerun(task=x),))
    assert "skip x, or compensate" in resume.violations(told.workflow, alone)[0].message


def test_what_was_given_up_of_an_earlier_attempt_is_a_leftover():
    told = play(
        "a:ext:retry=2; b",
        "a:run+hang,run+ok x:ok undo-x:silent+hang add-a-x@run:a say-a.1-retriable@ok:x "
        "abandon-x@BLOCKED",
    )
    assert [each.task for each in leftovers(told.workflow)] == [told.workflow.plan.by_name["x"]]


def test_what_is_kept_with_a_whole_that_failed_is_a_leftover():
    told = play("a:ext:stop; b", "a:run+hang x:ok add-a-x@run:a say-a.1-fail@ok:x")
    assert [each.task for each in leftovers(told.workflow)] == [told.workflow.plan.by_name["x"]]


@dataclass
class GoingBack(Play):
    """A play whose clock is put back with every decision."""

    def now(self) -> events.Now:
        forward = super().now()
        return replace(forward, time=EPOCH - (forward.time - EPOCH))


def test_a_clock_that_goes_back_changes_no_order():
    """What was added once another part had ended may rest on it."""
    text = "a:ext; b"
    setup = "a:run+hang x:ok add-a-x@run:a y:ok add-a-y@ok:x say-a.1-fail@ok:y"
    back = GoingBack(script=script(setup))
    back.begin(tree(text))
    back.run()
    assert back.story() == play(text, setup).story()
    times = [attempt.create_time for _, task in back.workflow.tasks() for attempt in task.attempts]
    assert times == sorted(times), "the history would go back as well"


def test_an_owner_that_was_given_up_ends_what_it_did_with_its_parts():
    """It says so before anybody is asked to make up for it: then nobody is."""
    told = play("a:ext | b", "a:run+hang/missing b:run+fail x:run+hang/hang add-a-x@run:a")
    a, x = (told.workflow.plan.by_name[name] for name in "ax")
    assert told.workflow.task(a).last.state is AttemptState.UNKNOWN
    cancelled = events.AttemptCancelled(task=a, number=1)
    told.perform(events.EndRequested(ask=ASK, said=cancelled, force=True))
    assert told.workflow.task(a).state is TaskState.CANCELLED
    assert told.workflow.task(x).state is TaskState.CANCELLED
    assert told.workflow.state is WorkflowState.COMPENSATED
