"""Messages as renters and as spammers write them; the honest ones have words that spam has too."""

# SpamAssassin gives each a point at most.
HONEST = [
    "Hi, is the 2 bedroom on the 4th floor still available? We'd move in around January 15 and "
    "can tour any evening after 6.",
    "I hope you won't mind me writing twice. I'd love to see 4B this weekend.",
    "You have wonderful apartments! Please add me to your mailing list for 1 bedrooms.",
    "Please contact now, my lease is up at the end of the month.",
    "I work from home and need fast internet. Does the building have Fios?",
    "Can you call now? I'm at 917-555-0134 until noon.",
    "Is the limited time offer on 4B (one month free) still on?",
    "Do I get my money back from the deposit if you reject my application?",
    "No obligation, just a tour please :)",
    "My income is $120000 a year, credit score 780. Combined with my husband $250,000.",
    "Deposit: $250000 in savings, I can pay 12 months upfront. Guarantor earns 150000 USD.",
    "We're a same-sex couple with two cats looking for a pet friendly place.",
    "My SSN is xxx-xx-1234, do you need the rest for the credit check?",
    "I am a beneficiary of a housing voucher (Section 8, CityFHEPS). Do you accept it? The "
    "voucher covers $2,387.",
    "I work in crypto, paid in USDC and salary. Income about 40x the rent.",
    "Is there a fridge for storage for meds? My son takes insulin.",
    "I'm Mary Winner, moving with my sister Ana Casino and Joe Million. Unit B7C or 5EX please.",
    "I'm a barrister from London relocating to New York for work on March 1, 2027. Budget £3,500 / $4,400.",
    "I'm a pharmacist, my wife is a nurse at Mount Sinai. Dog: 35 lb beagle, all shots. Can we see 12C?",
    "I lost 20 pounds climbing the stairs in my walk-up, need an elevator building!!",
    "How much is the application fee? Can I pay by Western Union or ATM card? I don't have a US"
    " bank account number yet.",
    "Thank you and God bless you. I am Mr. Musa Diallo, I look for a studio for my daughter, student at NYU.",
    "I won the housing lottery and look for a 1 bedroom under $2,750/month, moving 12/01/2026.",
    "PLEASE CALL ME ASAP 555-123-4567!!! I NEED TO MOVE BY FRIDAY!!!",
    "Is the no fee listing real? The price $1 on StreetEasy seems wrong. The asking price for "
    "the condo was $1,250,000.",
    "Hola, me interesa el apartamento de 2 cuartos, tengo voucher de Section 8. ¿Se aceptan perros? Gracias.",
    "你好，我想看一下这个一居室，下周六可以吗？我的预算是每月3000美元。",
    "Добрый день! Интересует квартира с одной спальней, можно ли посмотреть в субботу?",
    "Bonjour, je cherche un studio à partir du 1er février. Revenu: 95 000 € par an.",
    "My credit is bad (580) but I have a guarantor. Is there a no credit check option? I filed "
    "for bankruptcy in 2021.",
    "We run a small business, an SEO agency, and would like a live/work loft. About 1,100 sq ft. Two desks.",
    "I work as a dealer at the Resorts World casino, night shifts, so tours after 2pm please. Income 85k.",
    "Dear friend of Maple Court, thanks for the open house! Our offer: $2,850. Act now they "
    "say, so here I am :-)",
    "I'm a fitness coach (weight loss and diet plans). Is there a gym? Is it ok to train 1-2 clients there?",
    "I am on disability, take tramadol and valium for my back, so I need a ground floor unit or an elevator.",
    "I make $1,450.50 biweekly after taxes, plus $600 SSI. Rent is 30% of that. Please let me "
    "know what documents you need: pay stubs, bank statements, tax returns?",
    "gclid=EAIaIQobChMI7Zq8m5b2ggMVh0lHAR0vYQ9kEAAYASAAEgK1ZvD_BwE fbclid=IwAR2v9QmXjT0v4bQ2sC0fV7s8m1Zp9Kd3",
    "6f9619ff-8b86-d011-b42d-00cf4fc964ff",
    "I saw the ad on Zillow. I'm relocating for a job at Google, my employer pays relocation of"
    " $15,000. Start date 1/4. Tour on Saturday?",
    "Is it possible to unsubscribe from your mails? I found a place. Thanks for your help!",
    "We have three kids and a million questions! Which school zone is it? Is there a bike room?",
    "I have a medical exam on Tuesday, could I come Wednesday 10am? Also is the unit furnished?",
    "I work at Western Union in compliance, verified income $98,000, and I'd get the keys by Feb 1.",
    "My father is deceased; my sister, a million dollars poorer after the divorce, and I want a 3 bedroom.",
    "Hi, I look for a 1-bedroom for my mother; my father is deceased. She is the beneficiary of a pension.",
    "My late husband left me $1,200,000. God bless you.",
    "PLEASE CALL ME ASAP!!! I NEED A 2 BEDROOM APARTMENT NOW!!!",
    "Min Seo, Kin Wong and Keto Gelashvili would like a tour slot at 10 or 11.",
    "A specialist, Olivia Grant (olivia.grant@home.test), takes via Grand St.",
]
# As forms get them: advance fees, pills, loans, shares, extortion, search engines.
SPAM = [
    "I am Mr. Musa, director of the foreign remittance department, Bank of Africa. A deceased "
    "customer left the sum of US$10.5M with no next-of-kin. I want you to stand as his "
    "relative, 40% for you. Send your full name, occupation, age, telephone number, bank "
    "account number. You will get an ATM CARD. Western Union. God bless you.",
    "I am Mrs. Grace Williams, a widow with cancer. My late husband deposited $8,500,000 in a "
    "bank. I want to donate it to charity through you. Reply with your full name and phone "
    "number. God bless you.",
    "Attention beneficiary: your inheritance fund of USD 5.7 million dollars has been approved "
    "by the central bank of Nigeria. Contact the remittance director with your bank account "
    "number.",
    "A deceased client left ten million dollars and no next of kin.",
    "Your compensation payment of $2.5M is ready for Western Union. Send your address and "
    "telephone number for the ATM card.",
    "I am Barrister John, attorney to your late relative who died with his family in a plane "
    "crash. The bank asked me to provide the next of kin or have the account confiscated.",
    "Hello dear, I am Sgt. Miller of the US Army in Syria. We found two trunk boxes of money, "
    "$25 million. I need your help to move the consignment to your country. 30% for you.",
    "Do you need a loan? We offer business loans and personal loans at 3% interest, no credit "
    "check. Apply now with your full name, amount needed, and monthly income.",
    "Hi, I was looking at your website and noticed it is not on the first page of Google. Our "
    "SEO experts can bring you website traffic. Reply for a free quote.",
    "You have been selected for a $1000 Walmart gift card! Click here to claim your prize now. "
    "Limited time offer. Act now!",
    "Get Generic Viagra online, overnight shipping, no prescription, online pharmacy, 100% "
    "guaranteed, lowest prices!",
    "Hot single girls in your area want to meet you tonight. Free porn, live sex cams, xxx videos.",
    "Enlarge your penis by 3 inches! Male enhancement pills, increase your stamina, money back guarantee!",
    "Replica Rolex watches at low Prices, free shipping, buy now!",
    "Forex trading signals, guaranteed profit 200% per month! Join thousands of investors. "
    "Double your bitcoin in 24 hours.",
    "Hello, I'm a hacker who has access to your operating system. I recorded you while "
    "masturbating. My bitcoin wallet: bc1qar0srrr7xfkvy5l643lydnw9re59gtzzwf5mdq. Pay $1400 "
    "within 50 hours.",
    "Dear Sir/Madam, compliments of the season. I have a confidential business proposal worth "
    "15.5 million USD. Reply urgently to my private email. Barrister Ahmed.",
    "Congratulations! Your email won £1,500,000.00 in the International Lottery. Contact the "
    "fiduciary agent for claims with ref number.",
    "Burn fat fast without exercise! Keto diet pills, lose 20 pounds, free trial, as seen on Oprah!",
    "Strong buy! Stock alert: this penny stock will explode 500% today. Buy before everyone "
    "else. Not a registered investment advisor.",
    "Phentermine, Xanax, Valium, Vicodin, Ambien without a doctor. Cheap meds online.",
    "Work from home and earn $5000 a week! Be your own boss, financial freedom, no experience "
    "needed. Extra income guaranteed!",
    "I AM MR PETER WONG, DIRECTOR OF HANG SENG BANK. I HAVE A SECURED BUSINESS PROPOSAL OF 22.3"
    " MILLION UNITED STATES DOLLARS. NO RISK. 50/50. REPLY URGENTLY.",
    "Your ATM card worth 10.5 million dollars is ready, the United Nations compensation. "
    "Contact Rev. James by Western Union with your bank account number.",
    "Greetings, I am Dr. Ahmed Bello, auditor at the United Bank for Africa. I discovered a "
    "dormant account of $18.5 million of a foreign customer who died. Let us share it 50/50. "
    "Reply urgently.",
    "My name is Mrs. Comfort Kofi. I inherited USD 9.2 million from my late husband. I am dying"
    " of cancer and want you to use this fund for charity. Please send me your full name.",
    "Dear beneficiary, your ATM card of $4,500,000 is ready at the bank. Contact Rev. Paul and "
    "pay the delivery fee by Western Union.",
    "I represent a client with 45 million euros to invest in real estate in your country. Are "
    "you interested in a business partnership? This is confidential.",
    "You have won 1,000,000 dollars in the Microsoft email lottery. To claim, send your name, "
    "address, age and phone number to our fiduciary agent.",
    "I'm a banker. One of our clients, late Mr. John Smith, died in a plane crash and left "
    "$12.8M. You share the same surname, be his next of kin.",
    "Good day. I am General Scott with the US Army in Afghanistan, I need you to receive a "
    "consignment box with $15.6 million dollars. God bless.",
    "URGENT BUSINESS PROPOSAL: transfer of $30,000,000 (thirty million US dollars) from an "
    "over-invoiced contract to your foreign account.",
    "Buy quality meds: V1AGRA, C1ALIS and Lev1tra from online pharmacy, no prescription needed.",
    "Rolex replicas, Gucci bags at 90% off. Order now!",
    "Your package could not be delivered. Pay the fee of $1.99 at the link to reschedule. Your "
    "account is suspended.",
    "Earn passive income with crypto. Our bot makes 5% daily, guaranteed! Join now on Telegram.",
    "Get 10,000 Instagram followers and backlinks for your website, DA50+, only $99.",
    "Need urgent loan? 2% interest rate, from $5,000 to $5 million. Apply with your full name, "
    "country, phone, amount needed, duration.",
    "Increase your penis size naturally with our pills, risk free, 100% money back guarantee",
    "We pay cash for houses! Stop foreclosure, bad credit OK, refinance your home now!",
    "Meet hot Russian brides and single women for dating. Free registration, xxx pics.",
    "Your Norton subscription renewed for $399.99. Call now +1 888 555 0100 to cancel and get "
    "your money back.",
    "I hacked your email. Send 0.5 btc to 1BvBMSEYstWetqTFn5Au4m4GFg7xJaNVN2 or your contacts "
    "see the video of you.",
]
# Its words are an honest text's too, so it keeps 3.0.
STILL_SCORED = (
    "We are a UN compensation committee: you are approved for a payment of $850,000.00. Contact"
    " the diplomatic courier with your address and passport."
)
