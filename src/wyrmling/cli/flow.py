"""Everything in order, and the next model from feedback."""

from typing import Annotated, Any, Literal

import typer

from wyrmling.cli.verb import Answer, SpendOption, alone, app, verb

feedback_app = typer.Typer(
    help="What people say about answers: review it, and erase a person's.", invoke_without_command=True
)


app.add_typer(feedback_app, name="feedback")


@app.command()
@verb
def run(project: Any, spend: SpendOption = None) -> Answer:
    """Everything in order, data to gate; skips what has not changed."""
    from wyrmling.flow import run as flow

    done = flow.run(project, limit_usd=spend)
    return Answer(done.document(), done.text(), done.exit_code)


@app.command()
@verb
def retrain(
    project: Any,
    when_needed: Annotated[
        bool, typer.Option("--when-needed", help="Only with enough accepted feedback, time gone by, or drift.")
    ] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Keep looking whether it is needed.")] = False,
    poll: Annotated[float, typer.Option(help="Seconds between two looks of --watch.", min=0.1)] = 60.0,
    every: Annotated[str | None, typer.Option(help="Also after this time: 12h, 7d, 4w.")] = None,
) -> Answer:
    """Train the next model from accepted feedback. The gate says PROMOTE, HOLD or INCONCLUSIVE against the champion."""
    from wyrmling.flow import retrain as again
    from wyrmling.flow import watch as looking

    if every is not None:
        project = looking.with_period(project, every)
    if watch:
        looking.watch(project, poll)
    if when_needed and not (why := looking.reasons(project)):
        return Answer({"needed": False, "reasons": why}, looking.waiting(project))
    done = again.run(project)
    return Answer(done.document(), done.text(), done.exit_code)


@verb
def feedback_summary(project: Any) -> Answer:
    """Usage and feedback in numbers."""
    from wyrmling.flow import feedback

    return Answer(*feedback.summary(project))


alone(feedback_app, feedback_summary)


ReviewStatus = Literal["new", "accepted", "rejected"]


LimitOption = Annotated[int | None, typer.Option(help="Show at most so many.", min=1)]


RatingOption = Annotated[str | None, typer.Option("--rating", help="Only with this rating: up, neutral, down.")]


UserOption = Annotated[str | None, typer.Option("--user", help="Only of this end user, or of the key with this id.")]


IdsArgument = Annotated[
    list[str] | None, typer.Argument(metavar="ID", help="Feedback ids or answer ids.", show_default=False)
]


AllOption = Annotated[bool, typer.Option("--all", help="All that is new, or the part that --rating and --user name.")]


@feedback_app.command()
@verb
def inbox(project: Any, limit: LimitOption = 20, rating: RatingOption = None, user: UserOption = None) -> Answer:
    """What waits for a decision, oldest first."""
    from wyrmling.flow import feedback

    return Answer(*feedback.listing(project, "new", limit, rating=rating, user=user))


@feedback_app.command("list")
@verb
def list_feedback(
    project: Any,
    status: Annotated[ReviewStatus | None, typer.Option(help="Only new, accepted or rejected.")] = None,
    limit: LimitOption = None,
    rating: RatingOption = None,
    user: UserOption = None,
) -> Answer:
    """Feedback with the answers it is about."""
    from wyrmling.flow import feedback

    return Answer(*feedback.listing(project, status, limit, rating=rating, user=user))


@feedback_app.command()
@verb
def accept(
    project: Any,
    ids: IdsArgument = None,
    everything: AllOption = False,
    rating: RatingOption = None,
    user: UserOption = None,
) -> Answer:
    """Let the next training learn from feedback."""
    from wyrmling.flow import feedback

    return Answer(*feedback.decide(project, ids or [], "accepted", everything=everything, rating=rating, user=user))


@feedback_app.command()
@verb
def reject(
    project: Any,
    ids: IdsArgument = None,
    everything: AllOption = False,
    rating: RatingOption = None,
    user: UserOption = None,
) -> Answer:
    """Keep feedback out of training."""
    from wyrmling.flow import feedback

    return Answer(*feedback.decide(project, ids or [], "rejected", everything=everything, rating=rating, user=user))


@feedback_app.command()
@verb
def rate(
    project: Any,
    answer: Annotated[str, typer.Argument(metavar="ANSWER", help="The id of an answer.")],
    rating: Annotated[str | None, typer.Option(help="up, neutral or down.")] = None,
    correction: Annotated[str | None, typer.Option(help="What it should have been: a text, a label, tags.")] = None,
    comment: Annotated[str | None, typer.Option(help="A remark.")] = None,
    preferred_over: Annotated[str | None, typer.Option(help="The id of a worse answer to the same prompt.")] = None,
    item: Annotated[int, typer.Option(help="Which text of a request that had several, from 0.", min=0)] = 0,
    user: Annotated[str | None, typer.Option(help="Who says it.")] = None,
) -> Answer:
    """Say something about an answer, as the API does."""
    from wyrmling.flow import feedback

    return Answer(
        *feedback.rate(
            project, answer, rating=rating, correction=correction, comment=comment, preferred_over=preferred_over,
            item=item, user=user,
        )
    )  # fmt: skip


@feedback_app.command()
@verb
def collect(project: Any) -> Answer:
    """Write accepted feedback as files to learn from. `wyrmling retrain` does so first."""
    from wyrmling.flow import feedback

    return Answer(*feedback.collected(project))


@feedback_app.command()
@verb
def drift(
    project: Any,
    replay: Annotated[bool, typer.Option("--replay", help="Also score the champion again on its test rows.")] = False,
) -> Answer:
    """Look whether questions or the quality of answers changed. Alarms go to feedback.webhook; exit 3 with one."""
    from wyrmling.flow import drift as looking

    return Answer(*looking.look(project, replay=replay))


@feedback_app.command()
@verb
def forget(
    project: Any, user: Annotated[str, typer.Option("--user", help="The end user, or the id of an API key.")]
) -> Answer:
    """Erase what a person asked and said. Also from what was made of it."""
    from wyrmling.flow import feedback

    return Answer(*feedback.forget(project, user))
