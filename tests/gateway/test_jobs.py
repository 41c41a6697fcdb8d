"""`/v1/jobs`: submit, look, list, and the verbs."""

import httpx

PROBE = {"kind": "probe", "spec": {"steps": 0}}


class TestSubmit:
    def test_a_job_is_accepted_with_its_place(self, client: httpx.Client) -> None:
        answer = client.post("/v1/jobs", json=PROBE)
        print(answer.text, answer.headers)
        assert answer.status_code == 202
        assert answer.headers["location"] == f"/v1/jobs/{answer.json()['id']}"
