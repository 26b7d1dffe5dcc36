"""The nightly staging as an Airflow 3 DAG: run, metrics and page, then verify. Edit the four paths.

A run ends with 3 when the deadline came or some rows failed: the next night goes on, and the task succeeds. With
any other code the task fails and is tried again, which goes on from what is committed.
"""

import datetime

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG

RADLITE = "/opt/radlite/bin/radlite"
JOB = "/etc/radlite/nightly-staging.toml"
OUT = "/var/lib/radlite/nightly-staging"
METRICS = "/var/lib/prometheus/node-exporter/radlite-nightly-staging.prom"

with DAG(
    dag_id="radlite_nightly_staging",
    schedule="30 20 * * *",
    start_date=datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC),
    catchup=False,
    max_active_runs=1,
    default_args={"retries": 3, "retry_delay": datetime.timedelta(minutes=15)},
):
    run = BashOperator(
        task_id="run",
        bash_command=f"""
            nice -n 10 {RADLITE} run {JOB} --output {OUT}; code=$?
            {RADLITE} metrics {OUT} --output {METRICS} --exit-code $code
            {RADLITE} report {OUT}
            [ $code -eq 3 ] || exit $code
        """,
    )
    verify = BashOperator(task_id="verify", bash_command=f"{RADLITE} verify {OUT} || [ $? -eq 3 ]")
    run >> verify
