"""Trials without a patient."""

from mimic_qlora.validation import trials


def test_a_knowledge_prompt_is_the_bare_question():
    (trial,) = trials.without_patient([{"question": "What is sepsis?"}])
    assert (
        trial.messages == [{"role": "user", "content": "What is sepsis?"}]
        and trial.subject_id is None
    )
