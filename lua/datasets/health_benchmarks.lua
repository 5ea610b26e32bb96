--- Health_Benchmarks: a question with its options A to D inside, and the letter. On the hub each specialty has a file
--- of its own; 52 of them are read, in the order of the published recipe (all but "Ethics").
--- Option categories = { "Cardiology", ... }: these in place of the 52.
local text = require "medrl.text"

local categories = {
  "Lab_Medicine", "Wearables", "Dermatology", "Gastroenterology", "Internal_Medicine", "Oncology", "Orthopedics",
  "General_Surgery", "Ophthalmology", "Audiology", "Head_Neck_Surgery", "Elderly_Care", "Pediatrics",
  "Allergy_Immunology", "Rheumatology", "Pharmacy", "Obstetrics_Gynecology", "Microbiology", "Dentistry",
  "Physical_Medicine_and_Rehabilitation", "Neurology", "Psychiatry", "Pathology", "Genetics", "Rare_Diseases",
  "Hematology", "Emergency", "Endocrinology", "Radiology", "Cardiology", "Pulmonology", "Infectious_Diseases",
  "Critical_Care", "Pediatric_Surgery", "Neuroscience", "Epidemiology", "Fitness_Sports", "Health_Education",
  "Health_Economics", "Health_Entrepreneurship", "Hospital_Management", "Mental_Health", "Nutrition",
  "Palliative_Care", "Preventive_Medicine", "Public_Health", "Social_Media_Addiction", "Sleep", "Supplements",
  "Vaccination", "Work_Health", "Wellbeing",
}

local M = {
  name = "health_benchmarks",
  columns = { { "Questions", "string" }, { "Answers", "string" } },
  hub = { name = "yesilhealth/Health_Benchmarks", parts = categories },
}

--- The user message of every multiple-choice row of the mix.
function M.ask(question)
  return "\n\nAnswer the following question:\n" .. question
    .. "\n With 'A', 'B', 'C' or 'D'. You need to carefully review the context and reason before answering."
end

function M.row(r)
  if text.strip(r.Answers) == "" then return nil, "the answer is empty" end
  local row = {}
  for key, value in pairs(r) do row[key] = value end
  row.Questions, row.Answers = nil, nil
  row.messages = { { role = "user", content = M.ask(r.Questions) } }
  row.answer, row.db_set = r.Answers, "med_mc"
  return row
end

M.cases = {
  { { Questions = "Which?\nA) one\nB) two\nC) three\nD) four", Answers = "C" }, {
    answer = "C", db_set = "med_mc",
    messages = { { role = "user", content = "\n\nAnswer the following question:\nWhich?\nA) one\nB) two\nC) three\n"
      .. "D) four\n With 'A', 'B', 'C' or 'D'. You need to carefully review the context and reason "
      .. "before answering." } },
  } },
  { { Questions = "Which?", Answers = " " }, nil },
}

return M
